"""Redis Streams as the wire between agents and their collectors (https://redis.io/docs/latest/develop/data-types/streams/):
neither needs to reach the other, and either may come later.

| key `tightwire:ccl:…` | | written by | read by | bounded by |
|---|---|---|---|---|
| `up:JOB` | stream | the agents of JOB | the collector that has JOB, which trims what it has read | `MOST_UP` messages |
| `down:JOB:HOST` | stream | that collector | the agent of JOB on HOST | `MOST_DOWN`, and a minute without a word |
| `jobs` | sorted set, by time | agents that greet | collectors | `MOST_JOBS` are read |
| `owner:JOB` | which collector has JOB | collectors | collectors | its lease |
| `collectors` | sorted set, by time | collectors | collectors | those of the last seconds |

What is lost on the way goes again, as on any wire: agents keep what the collector has not taken.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tightwire.ccl.fleet.messages import MAX_MESSAGE_BYTES, MAX_NAME_CHARS, About
from tightwire.errors import ConfigError, LinkError
from tightwire.net.resp import SCHEMES, Address, Connection, Reply

PASSWORD = "TIGHTWIRE_REDIS_PASSWORD"
_UP, _DOWN, _OWNER = "tightwire:ccl:up", "tightwire:ccl:down", "tightwire:ccl:owner"
_JOBS, _COLLECTORS = "tightwire:ccl:jobs", "tightwire:ccl:collectors"
MOST_UP, MOST_DOWN, MOST_JOBS = 10_000, 64, 256
DOWN_KEPT_S = 60
START = "0-0"
TIMEOUT_S = 2.0
_AT_ONCE = 64  # messages
_MOST_BYTES = 4 * MAX_MESSAGE_BYTES  # of these together
_NAMES_BYTES = 4 * MOST_JOBS * MAX_NAME_CHARS + 4096  # of streams and jobs, and the messages' numbers
_LEASE = """local owner = redis.call('get', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1"""
_PRESENT = """local now = redis.call('time')[1]
redis.call('zadd', KEYS[1], now, ARGV[1])
redis.call('zremrangebyscore', KEYS[1], '-inf', now - ARGV[2])
return redis.call('zcard', KEYS[1])"""
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end return 1"


class Message(NamedTuple):
    """`number` is the server's."""

    stream: str
    number: str
    data: memoryview


def is_redis(url: str) -> bool:
    return urlsplit(url).scheme in SCHEMES


def address(url: str, environment: Mapping[str, str] = os.environ) -> Address:
    """Of `redis://[user@]host[:port][/database]`, or rediss:// for TLS. Raises ConfigError for what is none, and for a
    password in it, which everybody on this machine could read in the list of processes."""
    parts = urlsplit(url)
    found = Address.of(parts, "the address of Redis")
    if found.password is not None:
        raise ConfigError(f"{parts.scheme}://…@{parts.hostname}: a password is seen by others here; put it into ${PASSWORD}")
    return dataclasses.replace(found, password=environment.get(PASSWORD))


def up(job: str) -> str:
    return f"{_UP}:{job}"


def down(about: About) -> str:
    return f"{_DOWN}:{about.job}:{about.host}"


class Streams:
    """One server. Whatever fails raises OSError or LinkError, and the next call connects anew."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection: Connection | None = None

    @property
    def name(self) -> str:
        return f"{self._address.host}:{self._address.port}/{self._address.database}"

    def add(self, stream: str, data: bytes, most: int, kept_s: int | None = None) -> None:
        """At the end of `stream`, of which `most` messages or a few more stay; the stream goes after `kept_s` without."""
        self._call("XADD", stream, "MAXLEN", "~", str(most), "*", "m", memoryview(data))
        if kept_s is not None:
            self._call("EXPIRE", stream, str(kept_s))

    def read(self, after: Mapping[str, str], wait_s: float = 0.0) -> list[Message]:
        """What came into each stream after that number, waiting for the first."""
        block = ["BLOCK", str(int(1000 * wait_s))] if wait_s else []
        count = max(_AT_ONCE // len(after), 1)
        answer: Any = self._call("XREAD", "COUNT", str(count), *block, "STREAMS", *after, *after.values())
        try:
            return [_message(bytes(stream).decode(), each) for stream, told in answer or [] for each in told]
        except (TypeError, ValueError, UnicodeDecodeError) as error:
            raise LinkError("not what XREAD answers") from error

    def forget(self, stream: str, until: str | None = None) -> None:
        """Drop what came before that number; all, where none is given."""
        self._call("XTRIM", stream, *(["MAXLEN", "0"] if until is None else ["MINID", until]))

    def announce(self, job: str, at_s: float) -> None:
        """That there is such a job; its agents' wall clock says when."""
        self._call("ZADD", _JOBS, f"{at_s:.3f}", job)

    def jobs(self) -> list[str]:
        """Those that were announced last, oldest first, and are not over."""
        answer: Any = self._call("ZRANGE", _JOBS, str(-MOST_JOBS), "-1")
        try:
            return [bytes(each).decode() for each in answer]
        except (TypeError, ValueError) as error:
            raise LinkError("not what ZRANGE answers") from error

    def over(self, job: str) -> None:
        self._call("ZREM", _JOBS, job)

    def present(self, collector: str, kept_s: float) -> int:
        """`collector` is here; how many have said so in the last `kept_s`, by the server's clock."""
        return _number(self._call("EVAL", _PRESENT, "1", _COLLECTORS, collector, f"{kept_s:g}"))

    def leave(self, collector: str) -> None:
        self._call("ZREM", _COLLECTORS, collector)

    def lease(self, job: str, collector: str, kept_s: float) -> bool:
        """Whether `collector` has `job` for the next `kept_s`: nobody else has it."""
        return _number(self._call("EVAL", _LEASE, "1", f"{_OWNER}:{job}", collector, str(int(1000 * kept_s)))) == 1

    def release(self, job: str, collector: str) -> None:
        self._call("EVAL", _RELEASE, "1", f"{_OWNER}:{job}", collector)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, *words: str | memoryview) -> Reply:
        try:
            if self._connection is None:
                self._connection = Connection(self._address, TIMEOUT_S)
            return self._connection.call(*words, max_bytes=_MOST_BYTES + _NAMES_BYTES, max_items=8 * max(_AT_ONCE, MOST_JOBS))
        except (OSError, LinkError):
            self.close()
            raise


def _message(stream: str, entry: Any) -> Message:
    """[number, [field, value]]"""
    number, (_, data) = entry
    return Message(stream, bytes(number).decode("ascii"), memoryview(data))


def _number(answer: Reply) -> int:
    if not isinstance(answer, int):
        raise LinkError("not a number, which this command answers with")
    return answer
