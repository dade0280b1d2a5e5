"""Redis Streams as the wire between agents and their collector (https://redis.io/docs/latest/develop/data-types/streams/):
neither needs to reach the other, and either may come later.

| stream | written by | read by | bounded by |
|---|---|---|---|
| `tightwire:ccl:up` | all agents | the collector, which trims what it has read | `MOST_UP` messages |
| `tightwire:ccl:down:JOB:HOST` | the collector | the agent of JOB on HOST | `MOST_DOWN`, and a minute without a word |

What is lost on the way goes again, as on any wire: agents keep what the collector has not taken.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tightwire.ccl.fleet.messages import MAX_MESSAGE_BYTES, About
from tightwire.errors import ConfigError, LinkError
from tightwire.net.resp import SCHEMES, Address, Connection, Reply

PASSWORD = "TIGHTWIRE_REDIS_PASSWORD"
UP, _DOWN = "tightwire:ccl:up", "tightwire:ccl:down"
MOST_UP, MOST_DOWN = 10_000, 64
DOWN_KEPT_S = 60
START = "0-0"
TIMEOUT_S = 2.0
_AT_ONCE = 64  # messages
_MOST_BYTES = 4 * MAX_MESSAGE_BYTES  # of these together
_NAME_BYTES = 4096  # of a stream's name and the messages' numbers


class Message(NamedTuple):
    """`number` is the server's."""

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

    def read(self, stream: str, after: str, wait_s: float = 0.0) -> list[Message]:
        """What came after that number, waiting for the first."""
        block = ["BLOCK", str(int(1000 * wait_s))] if wait_s else []
        answer: Any = self._call("XREAD", "COUNT", str(_AT_ONCE), *block, "STREAMS", stream, after)
        try:
            return [_message(each) for _, told in answer or [] for each in told]
        except (TypeError, ValueError, UnicodeDecodeError) as error:
            raise LinkError("not what XREAD answers") from error

    def forget(self, stream: str, until: str | None = None) -> None:
        """Drop what came before that number; all, where none is given."""
        self._call("XTRIM", stream, *(["MAXLEN", "0"] if until is None else ["MINID", until]))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, *words: str | memoryview) -> Reply:
        try:
            if self._connection is None:
                self._connection = Connection(self._address, TIMEOUT_S)
            return self._connection.call(*words, max_bytes=_MOST_BYTES + _NAME_BYTES, max_items=8 * _AT_ONCE)
        except (OSError, LinkError):
            self.close()
            raise


def _message(entry: Any) -> Message:
    """[number, [field, value]]"""
    number, (_, data) = entry
    return Message(bytes(number).decode("ascii"), memoryview(data))
