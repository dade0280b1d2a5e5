"""The sending side: encodes chunk by chunk while earlier chunks are on the wire, and learns the link's speed."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

import zmq

from tightwire.core.clock import Clock, MonotonicClock
from tightwire.errors import LinkError
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import encode_block
from tightwire.kv.strategy import Strategy
from tightwire.kv.transfer import protocol
from tightwire.kv.transfer.protocol import Ack, Begin, End, Part, Ping, Pong, Report
from tightwire.net.estimator import LinkEstimator

DEFAULT_WINDOW_BYTES = 64 * 2**20
DEFAULT_CHUNK_TOKENS = 128


@dataclass(frozen=True)
class SendReport:
    """One transfer as measured. `wire_s` is the time the link was busy with it, `total_s` all of it, until the
    receiver said that everything is decoded. Stages overlap: their sum may exceed the total."""

    transfer_id: str
    frames: int
    raw_bytes: int
    wire_bytes: int
    encode_s: float
    wire_s: float
    decode_s: float
    total_s: float
    error: str | None
    missing: list[tuple[int, int]]

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def ratio(self) -> float:
        """Raw bytes ÷ bytes on the wire."""
        return self.raw_bytes / max(self.wire_bytes, 1)


class Sender:
    """Connected to one Receiver at `endpoint`. Thread-safe: one transfer at a time. At most `window_bytes` are
    underway unacknowledged. `link` is what the transfers told about the link."""

    def __init__(
        self,
        endpoint: str,
        *,
        fingerprint: str = "",
        window_bytes: int = DEFAULT_WINDOW_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self.fingerprint, self.link = fingerprint, LinkEstimator()
        self._window_bytes = window_bytes
        self._clock = clock or MonotonicClock()
        self._lock = threading.Lock()
        self._offset_s: float | None = None  # receiver's clock minus ours
        self._best_round_trip_s = float("inf")
        self._pings = 0
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # the window bounds what is queued
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.connect(endpoint)
        self._endpoint = endpoint

    def probe(self, timeout_s: float = 10.0, enough_s: float = 0.05, max_bytes: int = 4 * 2**20) -> None:
        """Learn latency, clock offset and speed before the first transfer: pings of growing size, until one keeps the
        link busy for `enough_s`. Raises LinkError when nobody answers in `timeout_s`."""
        with self._lock:
            for _ in range(3):
                self._ping(0, timeout_s)
            size = 16 * 1024
            while True:
                busy_s = self._ping(size, timeout_s)
                if busy_s >= enough_s or size >= max_bytes:
                    break
                size *= 4
            self.link.observe(size, busy_s)

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
        with self._lock:
            if self._offset_s is None:
                self._ping(0, timeout_s)
            return self._send(transfer_id, blocks, strategy, layers, tokens, self._clock.now_s() + timeout_s)

    def close(self) -> None:
        with self._lock:
            self._socket.close()

    def _send(
        self, transfer: str, blocks: Iterable[KVBlock], strategy: Strategy, layers: int, tokens: int, deadline_s: float
    ) -> SendReport:
        start_s = self._clock.now_s()
        self._socket.send(protocol.encode(Begin(transfer, layers, tokens)))
        wire = _WireTimes(self._offset_s or 0.0)
        raw_bytes, encode_s = 0, 0.0
        for index, block in enumerate(blocks):
            encode_start_s = self._clock.now_s()
            frame = encode_block(block, strategy, self.fingerprint)
            sent_s = self._clock.now_s()
            encode_s += sent_s - encode_start_s
            raw_bytes += block.raw_bytes
            wire.sent(index, len(frame), sent_s)
            self._socket.send_multipart([protocol.encode(Part(transfer, index)), frame], copy=False)
            while self._socket.poll(0) or wire.unacknowledged_bytes > self._window_bytes:
                self._take(transfer, wire, deadline_s)
        self._socket.send(protocol.encode(End(transfer, wire.frames)))
        report = None
        while report is None:
            report = self._take(transfer, wire, deadline_s)
        busy_s = wire.busy_s(self.link)
        self.link.observe(wire.acknowledged_bytes, busy_s)
        return SendReport(
            transfer, wire.frames, raw_bytes, wire.wire_bytes, encode_s, busy_s, report.decode_s,
            self._clock.now_s() - start_s, report.error, report.missing,
        )  # fmt: skip

    def _take(self, transfer: str, wire: _WireTimes, deadline_s: float) -> Report | None:
        message = self._receive(deadline_s, f"transfer {transfer}")
        if isinstance(message, Ack) and message.transfer == transfer:
            wire.acknowledged(message.index, message.arrived_s)
        return message if isinstance(message, Report) and message.transfer == transfer else None

    def _receive(self, deadline_s: float, what: str) -> protocol.ToSender:
        left_s = deadline_s - self._clock.now_s()
        if not self._socket.poll(int(max(left_s, 0.0) * 1000)):
            raise LinkError(f"{self._endpoint} did not answer in time ({what}); is the receiver running?")
        return protocol.decode_to_sender(self._socket.recv())

    def _ping(self, size: int, timeout_s: float) -> float:
        """Seconds that `size` padding bytes kept the link busy, by the two clocks' difference."""
        self._pings += 1
        start_s = self._clock.now_s()
        self._socket.send_multipart([protocol.encode(Ping(self._pings)), bytes(size)])
        while True:
            message = self._receive(start_s + timeout_s, "probing the link")
            if isinstance(message, Pong) and message.number == self._pings:
                break
        end_s = self._clock.now_s()
        if size == 0 and end_s - start_s < self._best_round_trip_s:
            self._best_round_trip_s = end_s - start_s
            self._offset_s = message.arrived_s - (start_s + end_s) / 2
            self.link.observe_round_trip(end_s - start_s)
        return max(message.arrived_s - (self._offset_s or 0.0) - start_s - self._best_round_trip_s / 2, 1e-6)


class _WireTimes:
    """When the frames of one transfer were handed over and when they arrived, on the sender's clock."""

    def __init__(self, offset_s: float) -> None:
        self._offset_s = offset_s
        self._sent: list[tuple[int, float]] = []  # bytes, time
        self._arrived: dict[int, float] = {}
        self.wire_bytes = self.acknowledged_bytes = 0

    @property
    def frames(self) -> int:
        return len(self._sent)

    @property
    def unacknowledged_bytes(self) -> int:
        return self.wire_bytes - self.acknowledged_bytes

    def sent(self, index: int, size: int, at_s: float) -> None:
        assert index == len(self._sent)
        self._sent.append((size, at_s))
        self.wire_bytes += size

    def acknowledged(self, index: int, arrived_s: float) -> None:
        if 0 <= index < len(self._sent) and index not in self._arrived:
            self._arrived[index] = arrived_s - self._offset_s
            self.acknowledged_bytes += self._sent[index][0]

    def busy_s(self, link: LinkEstimator) -> float:
        """How long the link was busy: a frame starts when it is handed over or when its forerunner has arrived,
        whichever is later, so that waiting for the encoder does not make the link look slow."""
        estimate = link.estimate()
        latency_s = estimate.latency_s if estimate else 0.0
        busy_s, before_s = 0.0, float("-inf")
        for index in sorted(self._arrived):
            begin_s = max(self._sent[index][1] + latency_s, before_s)
            before_s = self._arrived[index]
            busy_s += max(before_s - begin_s, 1e-6)
        return busy_s
