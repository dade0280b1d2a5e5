"""Object stores: obstore's own in memory and on disk, a server that hangs, and S3's protocol where a server is named.

TIGHTWIRE_TEST_S3=http://host:port names one that takes any credentials, such as `moto_server`.
"""

import os
import socket
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kv.store.helpers import key, make_block, prefixes, value
from tightwire.errors import ConfigError
from tightwire.kv.store import Store, open_store
from tightwire.kv.store.objects import Objects
from tightwire.kv.strategy import RAW

obstore = pytest.importorskip("obstore", reason="obstore is not installed (pip install 'tightwire[object]')")


def credentials(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name, setting in (("ENDPOINT", endpoint), ("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("REGION", "us-east-1")):  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", setting)


@pytest.fixture(params=["memory", "local", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    if request.param == "memory":
        yield Objects(obstore.store.MemoryStore())
    elif request.param == "local":
        yield Objects(obstore.store.LocalStore(str(tmp_path)))
    else:
        endpoint = os.environ.get("TIGHTWIRE_TEST_S3")
        if not endpoint:
            pytest.skip("TIGHTWIRE_TEST_S3 names no server that speaks S3's protocol")
        bucket = f"b{uuid.uuid4().hex}"
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")).close()
        credentials(monkeypatch, endpoint)
        yield Objects.open(f"s3://{bucket}/some/prefix", timeout_s=10)


def test_values_come_back(objects: Objects) -> None:
    large = value(key(1), 3_000_001)
    assert objects.put(key(1), large)
    assert objects.put(key(1), large)
    assert objects.get(key(1), 3_000_001) == large
    assert objects.get(key(2), 100) is None
    objects.remove(key(1))
    objects.remove(key(1))
    assert objects.get(key(1), 3_000_001) is None


def test_too_large_for_the_reader_is_a_miss_and_goes(objects: Objects) -> None:
    objects.put(key(1), value(key(1), 1001))
    assert objects.get(key(1), 1000) is None
    assert objects.contains([key(1)]) == 0


@pytest.mark.parametrize("missing", [0, 1, 15, 16, 17, 39])
def test_the_leading_run(objects: Objects, missing: int) -> None:
    for number in range(40):
        if number != missing:
            objects.put(key(number), memoryview(b"x"))
    assert objects.contains([key(number) for number in range(40)]) == missing
    assert objects.contains([]) == 0
    assert objects.first([key(missing), key(missing + 100), key(0), key(1)]) == (2 if missing else 3)
    assert objects.first([]) == 0


def test_prefixes(objects: Objects) -> None:
    prefix, got = prefixes(Store(objects, timeout_s=10)), []
    assert prefix.save(range(100), make_block(), RAW).saved == 6
    assert prefix.lookup(range(100)) == 96
    assert prefix.load(range(100), 96, got.append).ok
    assert len(got) == 6


def test_a_server_that_hangs_costs_the_limit_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        credentials(monkeypatch, f"http://127.0.0.1:{hanging.getsockname()[1]}")
        store = open_store("s3://bucket", timeout_s=0.3)
        start_s = time.monotonic()
        for _ in range(20):
            assert store.contains([key(1)]) == 0
            assert store.get(key(1), 10) is None
            assert not store.put(key(1), b"x")
        assert 0.25 < time.monotonic() - start_s < 1
        assert store.error is not None
        store.close()


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    credentials(monkeypatch, f"http://127.0.0.1:{port}")
    store = open_store("s3://bucket/prefix", timeout_s=1)
    assert store.contains([key(1)]) == 0
    assert store.error is not None
    store.close()


def test_a_url_that_obstore_does_not_understand() -> None:
    with pytest.raises(ConfigError, match="s3:///x"):
        open_store("s3:///x")
