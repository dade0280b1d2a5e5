"""The sending side: a thread that owns the socket, and workers that encode while earlier pieces are on the wire."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterable

import zmq

from tightwire.core.clock import Clock, MonotonicClock
from tightwire.core.trace import Trace
from tightwire.errors import ConfigError, LinkError
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import encode_block
from tightwire.kv.strategy import Strategy
from tightwire.kv.transfer import protocol
from tightwire.kv.transfer.lane import Lane, Message
from tightwire.kv.transfer.nixl import Launcher
from tightwire.kv.transfer.outbox import Outbox, Stream
from tightwire.kv.transfer.outgoing import Desk, Outgoing, SendReport
from tightwire.net import sockets
from tightwire.net.estimator import LinkEstimator
from tightwire.net.keys import Keys

__all__ = ["DEFAULT_CHUNK_TOKENS", "DEFAULT_WINDOW_BYTES", "Outgoing", "SendReport", "Sender"]
DEFAULT_WINDOW_BYTES = 64 * 2**20
DEFAULT_CHUNK_TOKENS = 128
_TICK_MS, _SOON_MS = 100, 1
_RETRY_S = 0.1


class Sender:
    """Connected to one Receiver at `endpoint`, again and again if need be. Thread-safe; any number of transfers at a
    time share the link. They hold `window_bytes` at most of pieces that the receiver has not taken. `link` is what the
    transfers told about the link. `keys`: CURVE, as the receiver wants it; `workers`: threads that encode; `trace` hears each
    step; `nixl`: frames are written by NIXL where the receiver has it (extra `nixl`; not encrypted)."""

    def __init__(
        self,
        endpoint: str,
        *,
        fingerprint: str = "",
        window_bytes: int = DEFAULT_WINDOW_BYTES,
        keys: Keys | None = None,
        workers: int = 1,
        trace: Trace | None = None,
        clock: Clock | None = None,
        nixl: bool = False,
    ) -> None:
        self.fingerprint, self.link = fingerprint, LinkEstimator()
        self._endpoint, self._keys = endpoint, keys
        self._waker = sockets.Waker()
        outbox = Outbox(window_bytes, self.link, endpoint, trace, writes=nixl)
        self._desk = Desk(outbox, clock or MonotonicClock(), self._waker.wake)
        self._lane = Lane(self._say, Launcher() if nixl else None)
        self._pings = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        try:
            self._connect()
        except ConfigError:
            self._waker.close()
            raise
        self._threads = [threading.Thread(target=self._exchange, name="tightwire-send", daemon=True)]
        self._threads += [
            threading.Thread(target=self._encode, name=f"tightwire-encode-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def probe(self, timeout_s: float = 10.0, enough_s: float = 0.05, max_bytes: int = 4 * 2**20) -> None:
        """Learn latency, clock offset and speed before the first transfer: pings of growing size, until one keeps the
        link busy for `enough_s`. Raises LinkError when nobody answers in `timeout_s`."""
        for _ in range(3):
            self._ping(0, timeout_s)
        size = 16 * 1024
        while True:
            busy_s = self._ping(size, timeout_s)
            if busy_s >= enough_s or size >= max_bytes:
                break
            size *= 4
        self.link.observe(size, busy_s)

    def distrust(self) -> None:
        """Somebody else saw the link change: what is observed of it next counts alone."""
        with self._desk.lock:
            self.link.distrust()

    def start(
        self,
        transfer_id: str,
        strategy: Strategy,
        *,
        layers: int,
        tokens: int,
        timeout_s: float = 60.0,
        revise: Callable[[int], Strategy | None] | None = None,
    ) -> Outgoing:
        """Open a transfer of pieces that together cover `layers` × `tokens`. It fails when the receiver gives no sign
        for `timeout_s` while something waits for it. `revise` is asked before each piece is encoded, with the raw bytes
        that were, and may give another strategy for all that follow; it is called on the encoders' threads. Raises
        LinkError once the sender is closed."""
        desk = self._desk
        with desk.lock:
            if desk.closed:
                raise LinkError(f"the sender to {self._endpoint} is closed")
            now_s = desk.clock.now_s()
            stream = Stream(secrets.randbits(63), transfer_id, strategy, layers, tokens, timeout_s, now_s, revise)
            desk.outbox.start(stream, now_s)
        desk.wake()
        return Outgoing(desk, stream)

    def send(
        self,
        transfer_id: str,
        blocks: Iterable[KVBlock],
        strategy: Strategy,
        *,
        layers: int,
        tokens: int,
        timeout_s: float = 60.0,
    ) -> SendReport:
        """Send `blocks`, which together cover `layers` × `tokens`, and wait for the receiver's report.

        Raises LinkError when the receiver does not answer in `timeout_s`; a report with `error` set when it answers
        that something is missing."""
        end_s = self._desk.clock.now_s() + timeout_s
        outgoing = self.start(transfer_id, strategy, layers=layers, tokens=tokens, timeout_s=timeout_s)
        try:
            for block in blocks:
                outgoing.put(block)
            return outgoing.finish(max(end_s - self._desk.clock.now_s(), 0.0))
        finally:
            outgoing.cancel("it was given up")

    def close(self) -> None:
        """What is open is cancelled. Waits for the threads."""
        desk = self._desk
        with desk.lock:
            if desk.closed:
                return
            desk.closed = True
            for stream in desk.outbox.streams:
                desk.outbox.fail(stream, "the sender was closed", desk.clock.now_s())
            desk.staged.notify_all()
            desk.changed.notify_all()
        desk.wake()
        for thread in self._threads:
            thread.join(timeout=5)
        self._waker.close()

    def _connect(self) -> None:
        self._shut_out = False
        self._socket, self._monitor = sockets.connected(self._context, self._endpoint, self._keys)
        self._poller = zmq.Poller()
        for waited in (self._socket, self._monitor, self._waker.fd):
            self._poller.register(waited, zmq.POLLIN)
        with self._desk.lock:
            self._desk.outbox.hello()

    def _disconnect(self, linger_ms: int = 0) -> None:
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(linger_ms)

    def _exchange(self) -> None:
        """Owns the socket: sends what the outbox has, hands it what arrives."""
        desk = self._desk
        while True:
            if self._shut_out:
                with desk.lock:
                    wanted = any(not stream.over for stream in desk.outbox.streams)
                if wanted:  # ZeroMQ does not try again by itself
                    self._renew()
            self._send_all()
            if desk.closed:
                break
            ready = dict(self._poller.poll(_SOON_MS if self._lane.waits else _TICK_MS))
            if self._waker.fd in ready:
                self._waker.clear()
            if self._socket in ready:
                self._receive_all()
            for event, _ in sockets.events(self._monitor) if self._monitor in ready else ():
                self._note(event)
            with desk.lock:
                desk.outbox.expire(desk.clock.now_s())
            desk.settle()
        self._disconnect(linger_ms=200)  # the cancellations
        self._lane.close()
        desk.settle()

    def _send_all(self) -> None:
        desk = self._desk
        while True:
            with desk.lock:
                message = desk.outbox.next_message(desk.clock.now_s())
                desk.staged.notify()  # there may be room for another frame
            if message is None:
                break
            self._lane.put(message, desk.clock.now_s())
        self._lane.flush(desk.clock.now_s())

    def _say(self, message: Message) -> None:
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart(message, zmq.NOBLOCK, copy=len(message) == 1)

    def _receive_all(self) -> None:
        desk = self._desk
        with contextlib.suppress(zmq.Again):
            while True:
                data = self._socket.recv(zmq.NOBLOCK)
                with contextlib.suppress(LinkError):  # what is not of the protocol is not answered
                    message = protocol.decode_to_sender(data)
                    self._lane.heard(message)
                    with desk.lock:
                        desk.outbox.received(message, desk.clock.now_s())

    def _note(self, event: int) -> None:
        desk = self._desk
        if event & sockets.REFUSED:
            self._shut_out = True
            with desk.lock:
                desk.outbox.refused(desk.clock.now_s())
        else:
            # A new socket, so that nothing of the old connection is left in queues: the outbox says what goes again.
            with desk.lock:
                was_connected = desk.outbox.connected
                desk.outbox.lost()
            self._lane.lost()
            if not was_connected:
                desk.clock.sleep_s(_RETRY_S)
            self._renew()

    def _renew(self) -> None:
        self._disconnect()
        self._connect()

    def _encode(self) -> None:
        desk = self._desk
        while True:
            with desk.lock:
                while (job := desk.outbox.next_staged()) is None and not desk.closed:
                    desk.staged.wait()
            if job is None:
                return
            stream, index, block = job
            start_s = desk.clock.now_s()
            try:
                changed = stream.revise(stream.encoded_bytes) if stream.revise is not None else None
                strategy = stream.strategy = changed or stream.strategy
                frame = encode_block(block, strategy, self.fingerprint)
            except Exception as error:  # whatever it is, it is this transfer's alone
                with desk.lock:
                    desk.outbox.fail(stream, f"encoding failed: {error}", desk.clock.now_s())
            else:
                with desk.lock:
                    now_s = desk.clock.now_s()
                    desk.outbox.encoded(stream, index, block.raw_bytes, strategy, frame, now_s - start_s, now_s)
                    desk.changed.notify_all()  # a frame is smaller than its piece
            del job, block
            desk.wake()

    def _ping(self, size: int, timeout_s: float) -> float:
        """Seconds that `size` padding bytes kept the link busy, by the two clocks' difference."""
        desk = self._desk
        with desk.lock:
            deadline_s = desk.clock.now_s() + timeout_s
            while not desk.outbox.connected:
                self._wait(deadline_s)
            self._pings += 1
            number = self._pings
            start_s = desk.clock.now_s()
            desk.outbox.ping(number, bytes(size))
            desk.wake()
            while number not in desk.outbox.pongs:
                self._wait(deadline_s)
            arrived_s, end_s = desk.outbox.pongs.pop(number), desk.clock.now_s()
            if size == 0:
                desk.outbox.observe_round_trip(start_s, end_s, arrived_s)
            return max(arrived_s - desk.outbox.offset_s - start_s - desk.outbox.wire.latency_s, 1e-6)

    def _wait(self, deadline_s: float) -> None:
        left_s = deadline_s - self._desk.clock.now_s()
        if left_s <= 0 or self._desk.closed:
            raise LinkError(f"{self._desk.outbox.trouble} (probing the link)")
        self._desk.changed.wait(left_s)
