"""Where agents come to a collector over ZeroMQ: one thread that owns the socket, with CURVE where there are keys."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterable

import zmq

from tightwire.ccl.fleet.jobs import Jobs
from tightwire.ccl.fleet.messages import MAX_MESSAGE_BYTES, Ask, decode_to_collector, encode
from tightwire.core.clock import Clock
from tightwire.errors import ConfigError, LinkError
from tightwire.net import sockets
from tightwire.net.door import Door
from tightwire.net.keys import Keys

_TICK_MS = 200
_AT_ONCE = 64  # messages, before anything else is looked at


class ZmqLobby:
    """Listens at `bind` (`endpoint` says where, port * takes any) and hands what comes to its `jobs`. Only agents with a
    key in `authorized` come in where there are `keys`; without, only this machine's, unless `insecure`. `refused` counts the
    others, `nonsense` messages that are none."""

    def __init__(
        self, bind: str, clock: Clock, *, keys: Keys | None = None, authorized: Iterable[bytes] = (), insecure: bool = False
    ) -> None:  # fmt: skip
        if keys is None and not insecure and not sockets.is_local(bind):
            raise ConfigError(
                f"listen={bind!r} can be reached from other machines, unencrypted and by anybody; give --keys (tightwire kv "
                "keys writes them), or --insecure on a private network"
            )
        self._clock = clock
        self.jobs = Jobs(clock, self._ask)
        self.refused = self.nonsense = 0
        self._waker = sockets.Waker()
        self._peers: dict[tuple[str, str], bytes] = {}  # (job, host): where it is
        self._asks: deque[tuple[str, Ask]] = deque()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._door = Door(self._context, frozenset(authorized)) if keys is not None else None
        try:
            self._socket = sockets.bound(self._context, bind, MAX_MESSAGE_BYTES, keys)
        except LinkError as error:
            self._end()
            raise ConfigError(f"listen={bind!r}: {error}") from error
        self._monitor = sockets.monitored(self._socket)
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._closing = False
        self._thread = threading.Thread(target=self._exchange, name="tightwire-lobby", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        self._waker.wake()
        self._thread.join()
        self._end()

    def _end(self) -> None:
        if self._door is not None:
            self._door.close()
        self._waker.close()
        self._context.term()

    def _ask(self, job: str, ask: Ask) -> None:
        self._asks.append((job, ask))
        self._waker.wake()

    def _exchange(self) -> None:
        poller = zmq.Poller()
        doors = [] if self._door is None else [self._door.socket]
        for waited in (self._socket, self._monitor, self._waker.fd, *doors):
            poller.register(waited, zmq.POLLIN)
        while not self._closing:
            ready = dict(poller.poll(_TICK_MS))
            if self._waker.fd in ready:
                self._waker.clear()
            if self._door is not None and self._door.socket in ready:
                self._door.answer()
            self.refused += sum(bool(event & sockets.REFUSED) for event, _ in sockets.events(self._monitor))
            if self._socket in ready:
                self._receive()
            while self._asks:
                job, ask = self._asks.popleft()
                if (job, ask.host) in self._peers:
                    self._send(self._peers[job, ask.host], encode(ask))
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)

    def _receive(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                if len(parts) != 2:
                    raise LinkError(f"a message of {len(parts)} parts")
                message = decode_to_collector(parts[1])
                reply = self.jobs.take(message, self._clock.now_s())
            except LinkError:
                self.nonsense += 1
                continue
            self._peers[message.about.job, message.about.host] = parts[0]
            if reply is not None:
                self._send(parts[0], encode(reply))

    def _send(self, peer: bytes, data: bytes) -> None:
        with contextlib.suppress(zmq.ZMQError):  # it left, or does not read
            self._socket.send_multipart([peer, data], zmq.NOBLOCK)
