"""inet_diag(7): what the kernel counts for each TCP socket of a network namespace, straight from netlink.

A look at a busy host is some hundred sockets, several times a second when something is slow, so the two structures are
unpacked here instead of by a library: `inet_diag_msg` (linux/inet_diag.h) and `tcp_info` (linux/tcp.h), whose fields keep
their places from one kernel to the next; that of kernels before 4.10 is shorter, and its counters are not told.

For all sockets the kernel walks the table of the whole machine, however many it has (0.3 ms where that has 2^18 places); one
that is named is found at once.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

_SOCK_DIAG, _GET = 4, 18  # NETLINK_SOCK_DIAG; TCPDIAG_GETSOCK, which tells both families in one walk over the kernel's table
_GET_ONE = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST, _REQUEST_DUMP, _ERROR, _DONE = 0x1, 0x301, 2, 3
_INFO = 2  # INET_DIAG_INFO
ESTABLISHED, RESEND = 1, 1  # a socket's state, and what its timer is set for
_HEADER = struct.Struct("=IHHII")
_WANTED = struct.Struct("=3xB48xI4x")
_NAMED, _NAME = struct.Struct("=3BxI48s"), slice(4, 52)  # inet_diag_req_v2, inet_diag_sockid in a message
_MESSAGE = struct.Struct("=4B2s2s16s16s12x5I")
_ATTRIBUTE = struct.Struct("=HH")
_TCP_INFO = struct.Struct("=68xI48x2Q24x3Q")
_PART_BYTES, _ONE_BYTES = 256 * 1024, 4096
_SOME, _ALL = 1, 2  # questions, by which their answers are told apart
_AT_ONCE = 64  # answers that wait in the kernel's buffer for us


class Socket(NamedTuple):
    """One established TCP socket. `queued_bytes` were handed to the kernel and are not acknowledged; `resending`: its timer
    is set to send them again, not to ask whether the receiver has room; `retransmits` counts such tries in a row without
    an answer; `busy_s` is how long it had bytes under way so far, `receiver_limited_s` how much of that because the
    receiver did not read; `rtt_s` the smoothed round trip, `delivery_bytes_per_s` the kernel's last measure of what gets
    through. What is not told is None."""

    inode: int
    local: str
    remote: str
    queued_bytes: int
    resending: bool
    retransmits: int
    acked_bytes: int | None = None
    received_bytes: int | None = None
    busy_s: float | None = None
    receiver_limited_s: float | None = None
    rtt_s: float | None = None
    delivery_bytes_per_s: int | None = None


class Table:
    """The established sockets of one network namespace: of the thread that makes this; then any thread may ask. Raises
    OSError where the kernel does not tell."""

    def __init__(self) -> None:
        self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG)
        self._requests: dict[int, bytes] = {}  # by inode, for those that `all` told last

    def close(self) -> None:
        self._kernel.close()

    def all(self) -> list[Socket]:
        found = []
        self._requests.clear()
        for message in self._ask():
            found.append(_socket(message))
            named = _NAMED.pack(message[0], socket.IPPROTO_TCP, 1 << (_INFO - 1), 1 << ESTABLISHED, bytes(message[_NAME]))
            self._requests[found[-1].inode] = _HEADER.pack(_HEADER.size + len(named), _GET_ONE, _REQUEST, _SOME, 0) + named
        return found

    def again(self, sockets: Sequence[Socket]) -> list[Socket] | None:
        """Some of those that `all` told, as they are now; None when one of them is not established any more. Raises OSError
        when an answer does not come; what is left of the answers is passed over by `all`."""
        found = []
        for first in range(0, len(sockets), _AT_ONCE):
            some = sockets[first : first + _AT_ONCE]
            self._kernel.send(b"".join([self._requests[each.inode] for each in some]))
            answers = [self._kernel.recv(_ONE_BYTES, socket.MSG_DONTWAIT) for _ in some]  # there when `send` is done
            for each, answer in zip(some, answers, strict=True):
                message = memoryview(answer)[_HEADER.size :]
                if _HEADER.unpack_from(answer)[1] == _ERROR or message[1] != ESTABLISHED:
                    return None
                found.append(_counted(message, each.inode, each.local, each.remote))
        return found

    def _ask(self) -> Iterator[memoryview]:
        wanted = _WANTED.pack(1 << (_INFO - 1), 1 << ESTABLISHED)
        self._kernel.send(_HEADER.pack(_HEADER.size + len(wanted), _GET, _REQUEST_DUMP, _ALL, 0) + wanted)
        while True:
            part = memoryview(self._kernel.recv(_PART_BYTES))
            while len(part) >= _HEADER.size:
                size, kind, _, question, _ = _HEADER.unpack_from(part)
                body, part = part[_HEADER.size : size], part[(size + 3) & ~3 :]
                if question != _ALL:
                    continue
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise OSError(code, os.strerror(code))
                yield body


def established() -> list[Socket]:
    """Those of the network namespace of the calling thread, once."""
    with closing(Table()) as table:
        return table.all()


def address(family: int, raw: bytes, port: int) -> str:
    """`raw` in network order; an IPv4 address that an IPv6 socket uses is written as the other end writes it."""
    text = socket.inet_ntop(family, raw[:4] if family == socket.AF_INET else raw)
    return f"{text.removeprefix('::ffff:') if '.' in text else text}:{port}"


def _socket(message: memoryview) -> Socket:
    family, _, _, _, from_port, to_port, source, target, _, _, _, _, inode = _MESSAGE.unpack_from(message)
    local = address(family, source, int.from_bytes(from_port, "big"))
    remote = address(family, target, int.from_bytes(to_port, "big"))
    return _counted(message, inode, local, remote)


def _counted(message: memoryview, inode: int, local: str, remote: str) -> Socket:
    _, _, timer, tries, _, _, _, _, _, _, queued, _, _ = _MESSAGE.unpack_from(message)
    info = _info(message[_MESSAGE.size :])
    if len(info) < _TCP_INFO.size:
        return Socket(inode, local, remote, queued, timer == RESEND, tries)
    rtt_us, acked, received, rate, busy_us, receiver_us = _TCP_INFO.unpack_from(info)
    return Socket(
        inode, local, remote, queued, timer == RESEND, tries, acked, received, busy_us / 1e6, receiver_us / 1e6,
        rtt_us / 1e6, rate,
    )  # fmt: skip


def _info(attributes: memoryview) -> memoryview:
    """The `tcp_info` among the attributes, empty where there is none."""
    while len(attributes) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _INFO:
            return attributes[_ATTRIBUTE.size : size]
        attributes = attributes[max((size + 3) & ~3, _ATTRIBUTE.size) :]
    return attributes[:0]
