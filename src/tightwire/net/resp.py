"""One connection that speaks RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/), the protocol of
Redis and Valkey.

The few commands of a store or of a stream need no client library, and large values come several times faster straight
from the socket into their own memory, which is taken only after the stated length was found acceptable.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import SplitResult, unquote

import numpy as np

from tightwire.errors import ConfigError, LinkError

SCHEMES = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}  # with TLS?
_MAX_LINE_BYTES = 64 * 1024
_READ_BYTES = 4096
_TOGETHER_BYTES = 64 * 1024  # as much must come within the time limit of one wait
_MAX_DEPTH = 8

Reply: TypeAlias = "str | int | memoryview | list[Reply] | None"


@dataclass(frozen=True)
class Address:
    """Where a server is and how to log in."""

    host: str
    port: int = 6379
    database: int = 0
    username: str | None = None
    password: str | None = None
    tls: bool = False

    @classmethod
    def of(cls, parts: SplitResult, what: str) -> Address:
        """From `redis://[user:password@]host[:port][/database]`. Raises ConfigError, which calls the URL `what`."""
        database = parts.path.strip("/") or "0"
        try:
            port = parts.port or cls.port
        except ValueError as error:
            raise ConfigError(f"{what} {parts.scheme}://{parts.hostname}: {error}") from error
        if parts.scheme not in SCHEMES or not parts.hostname or not database.isdigit():
            raise ConfigError(
                f"{what} {parts.scheme}://{parts.hostname}{parts.path}: write it like redis://host:6379/0"
            )
        username, password = (unquote(each) if each else None for each in (parts.username, parts.password))
        return cls(parts.hostname, port, int(database), username, password, SCHEMES[parts.scheme])


class ServerError(LinkError):
    """The server answered with an error; its first word is `code`."""

    def __init__(self, text: str) -> None:
        self.code = text.split(" ", 1)[0]
        super().__init__(f"the server says: {text}")


class Connection:
    """Logged in. `timeout_s` is for connecting and then for each wait on the socket. After any error but ServerError
    the connection is of no use."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._room = self._items = 0
        self._read = bytearray()  # received and not yet taken
        self._socket = socket.create_connection((address.host, address.port), timeout_s)
        try:
            if address.tls:
                context = ssl.create_default_context()
                self._socket = context.wrap_socket(self._socket, server_hostname=address.host)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._tls = address.tls
            if address.password is not None:
                self.call("AUTH", *([address.username] if address.username else []), address.password)
            if address.database:
                self.call("SELECT", str(address.database))
        except BaseException:
            self._socket.close()
            raise

    def call(self, *words: str | memoryview, max_bytes: int = 0, max_items: int = 0) -> Reply:
        """The answer to one command. Raises ServerError, OSError, and LinkError for what is not RESP2, or where all
        values together are longer than `max_bytes` or all lists than `max_items`."""
        self._send(words)
        self._room, self._items = max_bytes, max_items
        return self._reply(0)

    def counts(self, commands: Sequence[tuple[str, ...]]) -> list[int]:
        """The answers to commands that are answered with a number, all asked at once. Raises as `call`, ServerError for the
        first that failed once all are answered."""
        self._socket.sendall(b"".join(_framed(words) for words in commands))
        self._room = self._items = 0
        found: list[int] = []
        failed: ServerError | None = None
        for _ in commands:
            try:
                reply = self._reply(0)
            except ServerError as error:
                failed = failed or error
                continue
            if not isinstance(reply, int):
                raise LinkError(f"not an answer of Redis to this command: {reply!r}")
            found.append(reply)
        if failed is not None:
            raise failed
        return found

    @property
    def ended(self) -> bool:
        """Whether the server hung up while nothing was asked."""
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        return bool(self._read) or bool(waiting.poll(0))

    def close(self) -> None:
        self._socket.close()

    def _send(self, words: Sequence[str | memoryview]) -> None:
        text = b"*%d\r\n" % len(words)
        for word in words:
            if isinstance(word, memoryview):  # large: sent from where it is
                self._socket.sendall(text + b"$%d\r\n" % len(word))
                self._socket.sendall(word)
                text = b"\r\n"
            else:
                text += _framed_word(word)
        self._socket.sendall(text)

    def _reply(self, depth: int) -> Reply:
        line = self._line()
        kind, rest = line[:1], line[1:].decode("utf-8", "replace")
        if kind == b"+":
            return rest
        if kind == b"-":
            raise ServerError(rest)
        if kind not in b":$*":
            raise LinkError(f"not an answer of Redis to this command: {line[:40]!r}")
        try:
            number = int(rest)
        except ValueError:
            raise LinkError(f"not an answer of Redis: {line[:40]!r}") from None
        if kind == b":":
            return number
        if number == -1:
            return None
        return self._bulk(number) if kind == b"$" else self._array(number, depth)

    def _bulk(self, size: int) -> memoryview:
        if not 0 <= size <= self._room:
            raise LinkError(f"an answer of {size} bytes; accepted are {self._room}")
        self._room -= size
        data = np.empty(size, np.uint8).data
        at = min(size, len(self._read))
        data[:at] = self._read[:at]
        del self._read[:at]
        while at < size:
            with self._together(size - at):
                received = self._socket.recv_into(data[at:])
            if not received:
                raise LinkError("the connection ended in the middle of an answer")
            at += received
        while len(self._read) < 2:
            self._receive()
        if self._read[:2] != b"\r\n":
            raise LinkError("not an answer of Redis: it goes on in the middle of a line")
        del self._read[:2]
        return data.toreadonly()

    def _line(self) -> bytes:
        """The next line, without its end."""
        seen = 0
        while (end := self._read.find(b"\r\n", max(seen - 1, 0))) < 0:
            seen = len(self._read)
            if seen > _MAX_LINE_BYTES:
                raise LinkError(f"not an answer of Redis: {bytes(self._read[:40])!r}")
            self._receive()
        line = bytes(self._read[:end])
        del self._read[: end + 2]
        return line

    def _receive(self) -> None:
        received = self._socket.recv(_READ_BYTES)
        if not received:
            raise LinkError("the server closed the connection")
        self._read += received

    @contextlib.contextmanager
    def _together(self, missing: int) -> Iterator[None]:
        """What is `missing` wakes this thread once, not with every packet; from TLS it comes in records of its own size."""
        if self._tls or missing <= _READ_BYTES:
            yield
            return
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(missing, _TOGETHER_BYTES))
        try:
            yield
        finally:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _array(self, count: int, depth: int) -> list[Reply]:
        if not 0 <= count <= self._items or depth == _MAX_DEPTH:
            raise LinkError(f"not an answer of Redis to this command: a list of {count}; accepted are {self._items}")
        self._items -= count
        return [self._reply(depth + 1) for _ in range(count)]


def _framed(words: Sequence[str]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(map(_framed_word, words))


def _framed_word(word: str) -> bytes:
    data = word.encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)
