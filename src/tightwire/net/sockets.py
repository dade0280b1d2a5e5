"""ZeroMQ sockets as both ends of a link want them: bounded, quick to notice a dead peer, with CURVE where there are keys."""

from __future__ import annotations

import ipaddress
import os

import zmq
from zmq.utils.monitor import parse_monitor_message

from tightwire.errors import ConfigError, LinkError
from tightwire.net.keys import Keys

DEAD_AFTER_MS = 10_000  # the kernel gives up a connection whose bytes nobody acknowledges for as long
_RECONNECT_MS, _RECONNECT_MAX_MS = 20, 500
REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_LOCAL_SCHEMES = ("ipc", "inproc")


class Waker:
    """Rouses a thread that polls `fd`."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def wake(self) -> None:
        if self.fd >= 0:
            os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        os.eventfd_read(self.fd)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        os.close(fd)


def is_local(endpoint: str) -> bool:
    """Whether nothing beyond this machine reaches `endpoint`."""
    scheme, _, rest = endpoint.partition("://")
    host = rest.rpartition(":")[0].strip("[]")
    try:
        return scheme in _LOCAL_SCHEMES or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "lo")


def bound(
    context: zmq.Context[zmq.Socket[bytes]], bind: str, max_message_bytes: int, keys: Keys | None
) -> zmq.Socket[bytes]:
    """A ROUTER at `bind`. Raises LinkError where it cannot be bound."""
    socket = context.socket(zmq.ROUTER)
    _prepare(socket)
    socket.setsockopt(zmq.LINGER, 1000)
    socket.setsockopt(zmq.RCVHWM, 4)  # messages of each peer that wait in ZeroMQ, each as large as a frame
    socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    try:
        socket.bind(bind)
    except zmq.ZMQError as error:
        socket.close()
        raise LinkError(f"cannot bind {bind!r}: {error}; give a free address, port * takes any") from error
    return socket


def connected(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, keys: Keys | None, *, queue: bool = True
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """A DEALER that goes on trying to reach `endpoint`, until it is refused, and the monitor of its events from the first on. Without
    `queue` nothing waits for a connection: sending raises zmq.Again while there is none. Raises ConfigError where that is no
    address."""
    server = keys.server if keys is not None else None
    if keys is not None and server is None:
        raise ConfigError("keys without a server's public key; give Keys.load(folder, server=...)")
    socket = context.socket(zmq.DEALER)
    _prepare(socket)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)  # the sender's window bounds what is queued
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.IMMEDIATE, not queue)
    socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
    if keys is not None and server is not None:
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, server)
    monitor = monitored(socket)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.disable_monitor()
        monitor.close(0)
        socket.close()
        raise ConfigError(f"endpoint {endpoint!r}: {error}; write it like tcp://host:port") from error
    return socket, monitor


def monitored(socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """The socket's events: the loss of a connection, refused handshakes."""
    monitor: zmq.Socket[bytes] = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | REFUSED)
    return monitor


def events(monitor: zmq.Socket[bytes]) -> list[tuple[int, int]]:
    """Those that wait, oldest first: code and value (of a lost connection, its file descriptor)."""
    found = []
    while monitor.poll(0):
        event = parse_monitor_message(monitor.recv_multipart())
        found.append((int(event["event"]), int(event["value"])))
    return found


def _prepare(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.TCP_MAXRT, DEAD_AFTER_MS)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 5)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 2)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
