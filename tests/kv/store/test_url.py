"""A URL names a store, or a ConfigError says what is wrong with it, without the password."""

from pathlib import Path

import pytest

from tightwire.errors import ConfigError
from tightwire.kv.store import open_store
from tightwire.kv.store.url import _redis, urlsplit


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("folder", "scheme"),
        ("http://user:hunter2@host/", "scheme"),
        ("file://relative/path", "absolute"),
        ("file:", "absolute"),
        ("file:///tmp?ttl_s=1", "durable"),
        ("redis:///0", "redis://host"),
        ("redis://user:hunter2@host/zero", "redis://host"),
        ("redis://user:hunter2@host:port", "Port"),
        ("redis://host?ttl_s=-1", "ttl_s"),
        ("redis://host?ttl_s=0", "ttl_s"),
        ("redis://user:hunter2@host?tls=1", "ttl_s"),
    ],
)
def test_what_cannot_be_meant(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


def test_only_folders_and_memory_take_a_size(tmp_path: Path) -> None:
    for url in (f"file://{tmp_path}", "memory://"):
        assert open_store(url, max_bytes=1000).put("a" * 16, b"x")
        assert not open_store(url, max_bytes=10).put("b" * 16, b"x" * 11)
    for url in ("redis://host", "s3://bucket"):
        with pytest.raises(ConfigError, match="max_bytes=10"):
            open_store(url, max_bytes=10)


def test_a_folder_with_a_space(tmp_path: Path) -> None:
    assert open_store(f"file://{tmp_path}/a%20b?durable=1").put("a" * 16, b"x")
    assert (tmp_path / "a b" / "aa" / f"{'a' * 16}.twkv").exists()


def test_everything_in_a_redis_url() -> None:
    redis = _redis(urlsplit("rediss://me:p%40ss@host:1234/5?ttl_s=60"), 2)
    address = redis._address
    assert (address.host, address.port, address.database, address.tls) == ("host", 1234, 5, True)
    assert (address.username, address.password, redis._ttl_s) == ("me", "p@ss", 60)
