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

from tightwire.ccl import inet_diag, proc_net
from tightwire.ccl.inet_diag import Socket

_CLONE_NEWNET = 0x40000000
REACH_S = 1.2  # for an answer, of which the first may be lost


class Connection(msgspec.Struct, frozen=True):
    """One end of a TCP connection, that of `rank`; `peer` is the rank at the other end."""

    rank: int
    peer: int
    socket: Socket


class End(msgspec.Struct, frozen=True, array_like=True):
    """A socket of `rank`. `realm` is the network namespace on its machine: loopback addresses mean something only there."""

    rank: int
    realm: str
    socket: Socket


class Transport:
    """Looks at the same ranks' sockets again and again, and asks only for what may have changed. It holds on to their
    network namespaces until a look without them, or `close`."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._namespaces: dict[int, _Namespace] = {}

    def connections(self, pids: Mapping[int, int]) -> list[Connection]:
        """Those between two of the ranks (rank → process); ranks that are gone have none."""
        return joined(self.ends(pids))

    def ends(self, pids: Mapping[int, int]) -> list[End]:
        """All established sockets of these ranks (rank → process), which are on this machine."""
        ranks: dict[int, dict[int, int]] = {}
        for rank, pid in pids.items():
            with contextlib.suppress(OSError):
                ranks.setdefault(os.stat(f"{self._proc}/{pid}/ns/net").st_ino, {})[rank] = pid
        for gone in self._namespaces.keys() - ranks.keys():
            self._namespaces.pop(gone).close()
        found = []
        for number, mine in ranks.items():
            if number not in self._namespaces:
                self._namespaces[number] = _Namespace(next(iter(mine.values())), self._proc)
            realm = f"{_machine()}/{number}"
            found += [End(rank, realm, each) for rank, each in self._namespaces[number].look(mine)]
        return found

    def close(self) -> None:
        for each in self._namespaces.values():
            each.close()
        self._namespaces.clear()


def connections(pids: Mapping[int, int], proc: Path = Path("/proc")) -> list[Connection]:
    """As a `Transport` sees them, once."""
    return joined(ends(pids, proc))


def ends(pids: Mapping[int, int], proc: Path = Path("/proc")) -> list[End]:
    """As a `Transport` sees them, once."""
    with contextlib.closing(Transport(proc)) as transport:
        return transport.ends(pids)


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
    return [Connection(end.rank, other.rank, end.socket) for end, other in pairs if other is not None]


def _key(realm: str, local: str, remote: str) -> tuple[str, str, str]:
    return realm if local.startswith(("127.", "::1:")) else "", local, remote


@functools.cache
def _machine() -> str:
    """Another one after each start of the machine."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _inodes(pid: int, files: Iterable[str], proc: Path) -> set[int]:
    found = set()
    for name in files:
        with contextlib.suppress(OSError, ValueError):
            target = os.readlink(f"{proc}/{pid}/fd/{name}")
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    return found


class _Namespace:
    """The sockets that ranks have in the network namespace of a process."""

    def __init__(self, pid: int, proc: Path) -> None:
        self._proc = proc
        self._table: inet_diag.Table | None = None  # None: not allowed, not in this kernel
        self._files: dict[tuple[int, int], list[str]] = {}
        self._known: list[tuple[int, Socket]] = []
        _in_namespace(f"{proc}/{pid}/ns/net", self._open)

    def _open(self) -> None:
        self._table = inet_diag.Table()

    def close(self) -> None:
        if self._table is not None:
            self._table.close()

    def look(self, pids: Mapping[int, int]) -> list[tuple[int, Socket]]:
        """(rank, socket) of these ranks (rank → process). Which are whose is found out anew when their open files changed,
        or when a socket has gone."""
        files = {}
        for rank, pid in pids.items():
            with contextlib.suppress(OSError):
                files[rank, pid] = os.listdir(f"{self._proc}/{pid}/fd")
        again = None
        if self._table is not None and files == self._files:
            with contextlib.suppress(OSError):
                again = self._table.again([each for _, each in self._known])
        if again is not None:
            self._known = [(rank, each) for (rank, _), each in zip(self._known, again, strict=True)]
        else:
            every = self._every(next(iter(pids.values())))
            self._known, self._files = [], files
            for (rank, pid), names in files.items():
                mine = _inodes(pid, names, self._proc)
                self._known += [(rank, each) for each in every if each.inode in mine]
        return self._known

    def _every(self, pid: int) -> list[Socket]:
        if self._table is not None:
            with contextlib.suppress(OSError):
                return self._table.all()
        return proc_net.established(pid, self._proc)


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
