"""Redis: against a real server, killed and stopped in the middle, and against servers that talk nonsense."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kv.store.helpers import RedisServer, key, value, wait_until
from tightwire.errors import LinkError
from tightwire.kv.store import open_store
from tightwire.kv.store.redis import PREFIX, Redis
from tightwire.net.resp import Address, Connection

KEYS = [key(number) for number in range(20)]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    made = RedisServer()
    yield made
    made.kill()


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Redis]:
    made = Redis(Address("127.0.0.1", server.port), timeout_s=5)
    made._call("FLUSHALL")
    yield made
    made.close()


def test_values_come_back(redis: Redis) -> None:
    large = value(key(1), 3_000_001)
    assert redis.put(key(1), large)
    assert redis.put(key(1), large)
    assert redis.get(key(1), 3_000_001) == large
    assert redis.get(key(2), 100) is None
    redis.remove(key(1))
    redis.remove(key(1))
    assert redis.get(key(1), 3_000_001) is None


def test_too_large_for_the_reader_is_a_miss_and_goes(redis: Redis) -> None:
    redis.put(key(1), value(key(1), 1001))
    assert redis.get(key(1), 1000) is None
    assert redis.contains([key(1)]) == 0


def test_what_is_no_value_under_the_key_is_a_miss_and_goes(redis: Redis) -> None:
    for command in (("LPUSH", PREFIX + key(1), "x"), ("SET", PREFIX + key(1), "")):
        redis._call(*command)
        assert redis.contains([key(1)]) == 1
        assert redis.get(key(1), 100) is None
        assert redis.contains([key(1)]) == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.sets(st.integers(0, 19)))
def test_the_leading_run_whatever_is_missing(redis: Redis, there: set[int]) -> None:
    redis._call("FLUSHALL")
    for number in there:
        redis.put(KEYS[number], memoryview(b"x"))
    assert redis.contains(KEYS) == next((number for number in range(20) if number not in there), 20)
    assert redis.contains([]) == 0
    assert redis.first(KEYS) == min(there, default=20)
    assert redis.first([]) == 0


def test_a_value_expires_when_told_to(server: RedisServer, redis: Redis) -> None:
    store = open_store(server.url + "?ttl_s=1", timeout_s=5)
    assert store.put(key(1), b"x")
    assert redis._call("TTL", PREFIX + key(1)) == 1
    store.close()


def test_other_databases_are_other_stores(server: RedisServer, redis: Redis) -> None:
    store = open_store(f"valkey://127.0.0.1:{server.port}/3", timeout_s=5)
    assert store.put(key(1), b"x")
    assert redis.contains([key(1)]) == 0
    store.close()


def test_a_password_is_asked_for_and_given() -> None:
    server = RedisServer("--requirepass", "open sesame")
    try:
        assert open_store(f"redis://:open%20sesame@127.0.0.1:{server.port}", timeout_s=5).put(key(1), b"x")
        stranger = open_store(server.url, timeout_s=5)
        assert not stranger.put(key(1), b"x")
        assert "NOAUTH" in (stranger.error or "")
    finally:
        server.kill()


def test_full_is_not_broken() -> None:
    server = RedisServer("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    try:
        store = open_store(server.url, timeout_s=5)
        taken = [store.put(key(number), value(key(number), 500_000)) for number in range(9)]
        assert taken[0]
        assert not taken[-1]
        assert store.error is None
        assert store.get(key(0), 500_000) == value(key(0), 500_000)
        store.close()
    finally:
        server.kill()


def test_killed_in_the_middle_and_back_again() -> None:
    server = RedisServer()
    try:
        store = open_store(server.url, timeout_s=1)
        large = value(key(1), 5_000_000)
        for round_ in range(20):
            assert store.put(key(1), large)
            timer = threading.Timer(0.0005 * round_, server.kill)
            timer.start()
            while store.error is None:
                got = store.get(key(1), 5_000_000)
                assert got is None or got == large
            timer.join()
            start_s = time.monotonic()
            assert store.contains([key(1)]) == 0
            assert store.get(key(1), 5_000_000) is None
            assert time.monotonic() - start_s < 0.5
            server.start()
            store._breaker._until_s = 0.0  # otherwise each round waits a second
            wait_until(lambda: store.contains([]) == 0 and store.error is None)
        store.close()
    finally:
        server.kill()


def test_a_server_that_restarted_between_two_calls_is_no_failure(server: RedisServer) -> None:
    own = RedisServer()
    try:
        store = open_store(own.url, timeout_s=5)
        assert store.put(key(1), b"x")
        own.kill()
        own.start()
        assert store.put(key(1), b"x")
        assert store.error is None
        store.close()
    finally:
        own.kill()


def test_a_server_that_stands_still_costs_the_limit_once() -> None:
    server = RedisServer()
    try:
        store = open_store(server.url, timeout_s=0.3)
        assert store.put(key(1), b"x")
        os.kill(server.process.pid, signal.SIGSTOP)
        start_s = time.monotonic()
        for _ in range(50):
            assert store.get(key(1), 10) is None
            assert store.contains([key(1)]) == 0
        assert 0.25 < time.monotonic() - start_s < 1
        os.kill(server.process.pid, signal.SIGCONT)
        wait_until(lambda: store.get(key(1), 10) is not None)
        store.close()
    finally:
        server.kill()


def answer(reply: bytes) -> Connection:
    """A connection to a server that says `reply` to anything."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening, listening.accept()[0] as client:
            client.recv(65536)
            client.sendall(reply)

    threading.Thread(target=serve, daemon=True).start()
    return Connection(Address("127.0.0.1", listening.getsockname()[1]), 5)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"", "closed"),
        (b"$5\r\nabc", "middle"),
        (b"$3\r\nabcde", "middle"),
        (b"$x\r\n", "not an answer"),
        (b"$-2\r\n", "accepted are 100"),
        (b"$9999999999999\r\n", "accepted are 100"),
        (b"HTTP/1.1 400 Bad Request\r\n", "not an answer"),
        (b"*1\r\n$1\r\nx\r\n", "not an answer"),
        (b":" + b"1" * 100_000, "not an answer"),
        (b"-MOVED 3999 127.0.0.1:6381\r\n", "MOVED"),
    ],
)
def test_nonsense_is_refused_before_memory_is_taken(reply: bytes, message: str) -> None:
    connection = answer(reply)
    with pytest.raises(LinkError, match=message):
        connection.call("GET", "x", max_bytes=100)
    connection.close()


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=40))
def test_any_answer_is_one_or_an_error(reply: bytes) -> None:
    connection = answer(reply)
    try:
        got = connection.call("GET", "x", max_bytes=100)
        assert got is None or isinstance(got, str | int | memoryview)
    except (LinkError, OSError):
        pass
    finally:
        connection.close()
