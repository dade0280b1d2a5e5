"""The transport's own progress counters: the TCP connections between ranks, as the kernel counts them.

inet_diag(7) in each rank's network namespace; where that is not allowed, /proc/PID/net/tcp, which has the queues and the
retransmissions but no byte counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from tightwire.ccl import inet_diag
from tightwire.ccl.inet_diag import Socket

_CLONE_NEWNET = 0x40000000
_ESTABLISHED, _RESEND = 1, 1
REACH_S = 1.2  # for an answer, of which the first may be lost


class Connection(msgspec.Struct, frozen=True):
    """One end of a TCP connection, that of `rank`; `peer` is the rank at the other end. The rest as of `Socket`."""

    rank: int
    peer: int
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


class End(msgspec.Struct, frozen=True):
    """A socket of `rank`. `realm` is the network namespace on its machine: loopback addresses mean something only there."""

    rank: int
    realm: str
    socket: Socket


def connections(pids: Mapping[int, int], proc: Path = Path("/proc")) -> list[Connection]:
    """Those between two of the ranks (rank → process); ranks that are gone have none."""
    return joined(ends(pids, proc))


def ends(pids: Mapping[int, int], proc: Path = Path("/proc")) -> list[End]:
    """All established sockets of these ranks (rank → process), which are on this machine."""
    namespaces, inodes = {}, {}
    for rank, pid in pids.items():
        with contextlib.suppress(OSError):
            namespaces[rank] = os.stat(f"{proc}/{pid}/ns/net").st_ino
            inodes[rank] = _inodes(pid, proc)
    tables = _tables({namespaces[rank]: pids[rank] for rank in inodes}, proc)
    return [
        End(rank, f"{_machine()}/{namespaces[rank]}", each)
        for rank, mine in inodes.items()
        for each in tables[namespaces[rank]]
        if each.inode in mine
    ]


def reached(pid: int, addresses: Iterable[str], proc: Path = Path("/proc"), timeout_s: float = REACH_S) -> set[str] | None:
    """Which of these addresses (host:port) answer a process's host, be it with a refusal. None where that cannot be tried."""
    found: set[str] = set()

    def body() -> None:
        with contextlib.ExitStack() as opened:
            waiting, tried = select.poll(), {}
            for address in addresses:
                host, _, port = address.rpartition(":")
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                made = opened.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                if made.connect_ex((host, int(port))) in (0, errno.ECONNREFUSED):
                    found.add(address)
                else:
                    waiting.register(made, select.POLLOUT)
                    tried[made.fileno()] = made, address
            until_s = time.monotonic() + timeout_s
            while tried and (left_s := until_s - time.monotonic()) > 0:
                for descriptor, _ in waiting.poll(1000 * left_s):
                    waiting.unregister(descriptor)
                    made, address = tried.pop(descriptor)
                    if made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (0, errno.ECONNREFUSED):
                        found.add(address)

    return found if _in_namespace(f"{proc}/{pid}/ns/net", body) else None


def joined(found: Iterable[End]) -> list[Connection]:
    """The connections of which both ends are there, from any number of hosts."""
    by_address = {_key(end.realm, end.socket.local, end.socket.remote): end for end in found}
    pairs = [
        (end, by_address.get(_key(end.realm, end.socket.remote, end.socket.local))) for end in by_address.values()
    ]
    return [Connection(end.rank, other.rank, *end.socket[1:]) for end, other in pairs if other is not None]


def _key(realm: str, local: str, remote: str) -> tuple[str, str, str]:
    return realm if local.startswith(("127.", "::1:")) else "", local, remote


@functools.cache
def _machine() -> str:
    """Another one after each start of the machine."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _inodes(pid: int, proc: Path) -> set[int]:
    found, folder = set(), f"{proc}/{pid}/fd"
    for entry in os.listdir(folder):
        with contextlib.suppress(OSError, ValueError):
            target = os.readlink(f"{folder}/{entry}")
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    return found


def _tables(pids: Mapping[int, int], proc: Path) -> dict[int, list[Socket]]:
    """By network namespace (→ a process in it) its sockets. In a thread: setns(2) moves only the thread that calls it."""
    found: dict[int, list[Socket]] = {}

    def body() -> None:
        for namespace, pid in pids.items():
            try:
                _enter(f"{proc}/{pid}/ns/net")
                found[namespace] = inet_diag.established()
            except OSError:  # not allowed, not in this kernel
                found[namespace] = _by_proc(pid, proc)

    _aside(body)
    return found


def _in_namespace(path: str, call: Callable[[], None]) -> bool:
    """Whether `call` could be done in that network namespace."""
    done = []

    def body() -> None:
        with contextlib.suppress(OSError):
            _enter(path)
            call()
            done.append(True)

    _aside(body)
    return bool(done)


def _aside(call: Callable[[], None]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def _enter(namespace: str) -> None:
    """Move this thread there, if it is not."""
    if os.stat(namespace).st_ino == os.stat("/proc/thread-self/ns/net").st_ino:
        return
    with open(namespace) as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def _by_proc(pid: int, proc: Path) -> list[Socket]:
    found = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / str(pid) / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[3], 16) == _ESTABLISHED:
                    queued = int(fields[4].split(":")[0], 16)
                    resending = int(fields[5].split(":")[0], 16) == _RESEND
                    local, remote = _address(fields[1]), _address(fields[2])
                    tries = int(fields[6], 16)
                    found.append(Socket(int(fields[9]), local, remote, queued, resending, tries))
    return found


def _address(text: str) -> str:
    """`0100007F:1F90`, in words of the host's byte order, as `127.0.0.1:8080`."""
    number, port = text.split(":")
    words = [int(number[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(number), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return inet_diag.address(family, b"".join(words), int(port, 16))
