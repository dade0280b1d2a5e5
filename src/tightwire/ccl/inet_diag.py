"""inet_diag(7): what the kernel counts for each TCP socket of a network namespace, straight from netlink.

A look at a busy host is some hundred sockets, several times a second when something is slow, so the two structures are
unpacked here instead of by a library: `inet_diag_msg` (linux/inet_diag.h) and `tcp_info` (linux/tcp.h), whose fields keep
their places from one kernel to the next; that of kernels before 4.10 is shorter, and its counters are not told.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

_SOCK_DIAG, _GET = 4, 18  # NETLINK_SOCK_DIAG; TCPDIAG_GETSOCK, which tells both families in one walk over the kernel's table
_REQUEST_DUMP, _ERROR, _DONE = 0x301, 2, 3
_INFO = 2  # INET_DIAG_INFO
_ESTABLISHED, _RESEND = 1, 1
_HEADER = struct.Struct("=IHHII")
_WANTED = struct.Struct("=3xB48xI4x")
_MESSAGE = struct.Struct("=4B2s2s16s16s12x5I")
_ATTRIBUTE = struct.Struct("=HH")
_TCP_INFO = struct.Struct("=68xI48x2Q24x3Q")
_PART_BYTES = 256 * 1024


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


def established() -> list[Socket]:
    """Those of the network namespace of the calling thread. Raises OSError where the kernel does not tell."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        return [_socket(message) for message in _ask(kernel)]


def address(family: int, raw: bytes, port: int) -> str:
    """`raw` in network order; an IPv4 address that an IPv6 socket uses is written as the other end writes it."""
    text = socket.inet_ntop(family, raw[:4] if family == socket.AF_INET else raw)
    return f"{text.removeprefix('::ffff:') if '.' in text else text}:{port}"


def _ask(kernel: socket.socket) -> Iterator[memoryview]:
    wanted = _WANTED.pack(1 << (_INFO - 1), 1 << _ESTABLISHED)
    kernel.send(_HEADER.pack(_HEADER.size + len(wanted), _GET, _REQUEST_DUMP, 0, 0) + wanted)
    while True:
        part = memoryview(kernel.recv(_PART_BYTES))
        while len(part) >= _HEADER.size:
            size, kind = _HEADER.unpack_from(part)[:2]
            body = part[_HEADER.size : size]
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", body)[0]
                raise OSError(code, os.strerror(code))
            yield body
            part = part[(size + 3) & ~3 :]


def _socket(message: memoryview) -> Socket:
    family, _, timer, tries, from_port, to_port, source, target, _, _, queued, _, inode = _MESSAGE.unpack_from(message)
    local = address(family, source, int.from_bytes(from_port, "big"))
    remote = address(family, target, int.from_bytes(to_port, "big"))
    found = Socket(inode, local, remote, queued, timer == _RESEND, tries)
    info = _info(message[_MESSAGE.size :])
    if len(info) < _TCP_INFO.size:
        return found
    rtt_us, acked, received, rate, busy_us, receiver_us = _TCP_INFO.unpack_from(info)
    return Socket(*found[:6], acked, received, busy_us / 1e6, receiver_us / 1e6, rtt_us / 1e6, rate)


def _info(attributes: memoryview) -> memoryview:
    """The `tcp_info` among the attributes, empty where there is none."""
    while len(attributes) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _INFO:
            return attributes[_ATTRIBUTE.size : size]
        attributes = attributes[max((size + 3) & ~3, _ATTRIBUTE.size) :]
    return attributes[:0]
