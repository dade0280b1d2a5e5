"""An agent's connection to its collector over ZeroMQ."""

from __future__ import annotations

from collections.abc import Callable

import zmq

from tightwire.ccl.fleet.answering import Answering
from tightwire.ccl.fleet.backlog import Backlog
from tightwire.ccl.fleet.messages import About, Bye, encode
from tightwire.ccl.fleet.uplink import Uplink
from tightwire.core.clock import Clock
from tightwire.net import sockets
from tightwire.net.keys import Keys

_TICK_MS = 100
RENEW_S = 10.0  # without a word: what still stands in the socket is thrown away with it


class ZmqUplink(Uplink):
    """To the collector at `endpoint`, whose public key is in `keys`."""

    def __init__(
        self, endpoint: str, keys: Keys | None, about: About, backlog: Backlog, answering: Answering, clock: Clock,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._endpoint, self._keys, self._clock = endpoint, keys, clock
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket, self._monitor = sockets.connected(self._context, endpoint, keys, queue=False)
        self._renewed_s = clock.now_s()
        super().__init__(f"collector {endpoint}", about, backlog, answering, clock, say)

    def close(self) -> None:
        super().close()
        self._context.term()

    def _exchange(self) -> None:
        poller = zmq.Poller()
        for waited in (self._socket, self._monitor, self._waker.fd):
            poller.register(waited, zmq.POLLIN)
        while not self._closing:
            ready = dict(poller.poll(_TICK_MS))
            if self._waker.fd in ready:
                self._waker.clear()
            for event, _ in sockets.events(self._monitor):
                refused = bool(event & sockets.REFUSED)
                self._state(
                    "refused: its list of authorized keys does not have ours, or its key is another"
                    if refused
                    else "lost"
                )
                self._sending.lost()
            self._receive()
            self._send_all()
            if self._sending.greeting and self._clock.now_s() - self._renewed_s > RENEW_S:
                for each in (self._socket, self._monitor):
                    poller.unregister(each)
                self._hang_up(0)
                self._socket, self._monitor = sockets.connected(self._context, self._endpoint, self._keys, queue=False)
                for each in (self._socket, self._monitor):
                    poller.register(each, zmq.POLLIN)
                self._renewed_s = self._clock.now_s()
                self._state("not reached")
        if not self._sending.greeting:
            self._send(encode(Bye(self._about)))
        self._hang_up(500)

    def _hang_up(self, linger_ms: int) -> None:
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(linger_ms)

    def _receive(self) -> None:
        while True:
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if self._hear(data):
                self._renewed_s = self._clock.now_s()

    def _send_all(self) -> None:
        for message in self._due():
            if not self._send(encode(message)):
                self._sending.lost()
                return

    def _send(self, data: bytes) -> bool:
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        return True
