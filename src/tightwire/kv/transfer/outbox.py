"""The sending side's state: which transfers are open, what is staged, encoded, underway and released. No I/O, no
threads; times are arguments.

| a piece is | counted with | until |
|---|---|---|
| staged | its raw bytes | a worker encoded it |
| encoded | its frame's bytes | the receiver has taken (decoded or refused) it |

A transfer may hold as much as all of them leave free (dynamic thresholds, Choudhury and Hahne 1998), so that one that
nobody takes never blocks the others. After a lost connection what was not taken goes out again; a receiver that was
restarted gets everything again if nothing was released yet, otherwise the transfer fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tightwire.core.events import Kind
from tightwire.core.trace import Trace, trace_transfer
from tightwire.kv.block import KVBlock
from tightwire.kv.strategy import Strategy
from tightwire.kv.transfer import protocol
from tightwire.kv.transfer.fair import FairQueue
from tightwire.kv.transfer.protocol import Ack, Begin, Cancel, End, Hello, Part, Pong, Report, Taken, Welcome
from tightwire.kv.transfer.wire import Wire
from tightwire.net.estimator import LinkEstimator

OBSERVED_S = 0.02  # of busy link make an observation of its speed
_AHEAD = 3  # frames of a transfer that are encoded and wait for the link: what is encoded late can still be chosen
_SYNC = 0  # the number of the ping that follows a welcome


@dataclass
class Share:
    """What one strategy did of a transfer so far."""

    raw_bytes: int = 0
    wire_bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0


@dataclass(eq=False)
class Stream:
    """One outgoing transfer. It is over when `report` or `error` is set. `revise`: see `Sender.start`."""

    number: int
    name: str
    strategy: Strategy
    layers: int
    tokens: int
    timeout_s: float
    start_s: float
    revise: Callable[[int], Strategy | None] | None = None
    held: dict[int, int] = field(default_factory=dict)  # index: bytes it counts with
    frames: dict[int, memoryview] = field(default_factory=dict)  # encoded, not taken
    held_bytes: int = 0
    count: int = 0  # pieces put
    all_put: bool = False
    end_sent: bool = False
    released: bool = False  # a frame was taken and forgotten: it cannot be sent again
    progress_s: float = 0.0
    last_put_s: float = 0.0
    end_s: float = 0.0
    raw_bytes: int = 0
    encoded_bytes: int = 0  # raw ones
    wire_bytes: int = 0
    arrived_bytes: int = 0
    encode_s: float = 0.0
    wire_s: float = 0.0
    seen_bytes: int = 0  # of those that arrived, what the link's estimator knows
    seen_s: float = 0.0
    shares: dict[Strategy, Share] = field(default_factory=dict)
    coded: dict[int, Strategy] = field(default_factory=dict)  # frames that are not taken
    report: Report | None = None
    error: str | None = None

    @property
    def over(self) -> bool:
        return self.report is not None or self.error is not None


class Outbox:
    """Not thread-safe. What it wants to say is fetched with `next_message`."""

    def __init__(
        self, window_bytes: int, link: LinkEstimator, endpoint: str, trace: Trace | None = None, writes: bool = False
    ) -> None:
        self._trace, self._writes = trace, writes
        self._window_bytes, self._link, self._endpoint = window_bytes, link, endpoint
        self.trouble = f"{endpoint} did not answer; is the receiver running?"
        self._frame_bytes = 2**62
        self._held_bytes = 0
        self._streams: dict[int, Stream] = {}
        self._staged: FairQueue[Stream, tuple[int, KVBlock]] = FairQueue()
        self._ready: FairQueue[Stream, int] = FairQueue()
        self._control: deque[list[bytes]] = deque()
        self._boot: int | None = None
        self.connected = False
        self.wire = Wire(window_bytes)
        self.offset_s = 0.0  # receiver's clock minus ours
        self.pongs: dict[int, float] = {}
        self._best_round_trip_s = float("inf")
        self._sync_s = 0.0
        self.ended: list[Stream] = []  # over since somebody last looked

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    @property
    def streams(self) -> list[Stream]:
        return list(self._streams.values())

    def start(self, stream: Stream, now_s: float) -> None:
        stream.progress_s = stream.last_put_s = now_s
        self._streams[stream.number] = stream
        trace_transfer(self._trace, Kind.ENTERED, stream.name)
        if self.connected:
            self._begin(stream)

    def has_room(self, stream: Stream, size_bytes: int) -> bool:
        """Whether the transfer may hold as much more; the first piece of all always may."""
        free_bytes = self._window_bytes - self._held_bytes
        if stream.held_bytes == 0:
            return size_bytes <= free_bytes or self._held_bytes == 0
        return stream.held_bytes + size_bytes <= free_bytes

    def stage(self, stream: Stream, block: KVBlock, now_s: float) -> None:
        if stream.held_bytes == 0:  # so far nothing waited for the receiver
            stream.progress_s = now_s
        stream.last_put_s = now_s
        index, stream.count = stream.count, stream.count + 1
        stream.raw_bytes += block.raw_bytes
        self._hold(stream, index, block.raw_bytes)
        self._staged.push(stream, (index, block), block.raw_bytes)

    def all_put(self, stream: Stream, now_s: float) -> None:
        stream.all_put, stream.progress_s = True, now_s
        self._end_if_sent(stream)

    def next_staged(self) -> tuple[Stream, int, KVBlock] | None:
        """The next piece to encode."""
        found = self._staged.pop(lambda stream: self._ready.count(stream) < _AHEAD)
        return (found[0], *found[1]) if found else None

    def encoded(
        self,
        stream: Stream,
        index: int,
        raw_bytes: int,
        strategy: Strategy,
        frame: memoryview,
        encode_s: float,
        now_s: float,
    ) -> None:
        if stream.over:
            return
        stream.encode_s += encode_s
        stream.encoded_bytes += raw_bytes
        if len(frame) > self._frame_bytes:
            self.fail(
                stream,
                f"a frame of {len(frame)} bytes; the receiver takes {self._frame_bytes}: put smaller pieces",
                now_s,
            )
            return
        stream.wire_bytes += len(frame)
        share = stream.shares.setdefault(strategy, Share())
        share.raw_bytes += raw_bytes
        share.wire_bytes += len(frame)
        share.encode_s += encode_s
        stream.coded[index] = strategy
        stream.frames[index] = frame
        self._hold(stream, index, len(frame))
        self._ready.push(stream, index, len(frame))

    def next_message(self, now_s: float) -> list[bytes | memoryview] | None:
        """What to send now, in its parts; None while the link is full or there is nothing to say."""
        if self._control:
            return list(self._control.popleft())
        if not self.connected:
            return None
        while (found := self._ready.peek()) is not None and found[1] not in found[0].frames:
            self._ready.pop()  # the receiver said that it has it
        if found is None:
            return None
        stream, index = found
        frame = stream.frames[index]
        if not self.wire.has_room(len(frame)):
            return None
        self._ready.pop()
        self.wire.sent((stream.number, index), len(frame), now_s)
        self._end_if_sent(stream)
        return [protocol.encode(Part(stream.number, index)), frame]

    def received(self, message: protocol.ToSender, now_s: float) -> None:
        if isinstance(message, Welcome):
            self._welcome(message, now_s)
            return
        if isinstance(message, Pong):
            if message.number == _SYNC:
                self.observe_round_trip(self._sync_s, now_s, message.arrived_s)
            else:
                self.pongs[message.number] = message.arrived_s
            return
        if isinstance(message, Ack):
            at_s = message.arrived_s - self.offset_s
            busy_s = self.wire.arrived((message.stream, message.index), at_s)
        stream = self._streams.get(getattr(message, "stream", 0))
        if stream is None:
            return
        stream.progress_s = now_s
        match message:
            case Ack() if busy_s is not None:
                stream.wire_s += busy_s
                stream.arrived_bytes += len(stream.frames.get(message.index, b""))
                trace_transfer(self._trace, Kind.PROGRESS, stream.name, stream.arrived_bytes)
                if stream.wire_s - stream.seen_s >= OBSERVED_S:
                    self._see(stream)
            case Taken():
                if stream.frames.pop(message.index, None) is not None:
                    stream.released = True
                    stream.shares[stream.coded.pop(message.index)].decode_s += message.decode_s
                    self._hold(stream, message.index, 0)
            case Report():
                stream.report = message
                self._over(stream, now_s)
            case Cancel():
                self._fail(stream, f"the receiver gave it up: {message.reason}", now_s)

    def lost(self) -> None:
        """The connection is gone; nothing is sent before the next `Welcome`."""
        if self.connected:
            self.trouble = f"{self._endpoint} broke the connection and did not come back"
        self.connected = False
        self._control.clear()
        self.wire.clear()
        self._best_round_trip_s = float("inf")  # another route, or another host's clock

    def hello(self) -> None:
        """A connection is being made: what is said first."""
        self._say(Hello(protocol.VERSION, self._writes))

    def ping(self, number: int, padding: bytes) -> None:
        self._control.append([protocol.encode(protocol.Ping(number)), padding])

    def fail(self, stream: Stream, error: str, now_s: float) -> None:
        """Over at once; nothing of it is kept, and the receiver is told."""
        if not stream.over:
            if self.connected:
                self._say(Cancel(stream.number, error[: protocol.MAX_TEXT_CHARS]))
            self._fail(stream, error, now_s)

    def refused(self, now_s: float) -> None:
        """The peer's door stayed shut: no transfer can be made."""
        self.trouble = f"{self._endpoint} refused the connection; compare the keys of both sides"
        for stream in self.streams:
            self.fail(stream, self.trouble, now_s)

    def observe_round_trip(self, start_s: float, end_s: float, arrived_s: float) -> None:
        """A ping went and came back; `arrived_s` by the receiver's clock. The shortest one waited in no queue."""
        if end_s - start_s < self._best_round_trip_s:
            self._best_round_trip_s = end_s - start_s
            self.offset_s = arrived_s - (start_s + end_s) / 2
            self.wire.latency_s = (end_s - start_s) / 2
            self._link.observe_round_trip(end_s - start_s)

    def expire(self, now_s: float) -> None:
        """Fail the transfers that wait for the receiver and had no sign of it for their `timeout_s`."""
        for stream in self.streams:
            waits = stream.held_bytes > 0 or stream.all_put
            if waits and now_s - stream.progress_s > stream.timeout_s:
                self.fail(stream, f"{self.trouble} (for {stream.timeout_s:g} s)", now_s)

    def _welcome(self, message: Welcome, now_s: float) -> None:
        if self.connected:
            return
        self.connected = True
        self.trouble = f"{self._endpoint} gave no sign"
        self._sync_s = now_s
        self.ping(_SYNC, b"")
        restarted = self._boot is not None and message.boot != self._boot
        self._boot = message.boot
        self._frame_bytes = message.frame_bytes
        self._window_bytes = min(self._window_bytes, max(message.window_bytes, 1))
        for stream in self.streams:
            if restarted and stream.released:
                self.fail(stream, "the receiver was restarted in the middle", now_s)
                continue
            self._begin(stream)
            self._ready.drop(stream)
            for index in sorted(stream.frames):
                self._ready.push(stream, index, len(stream.frames[index]))
            stream.end_sent = False
            self._end_if_sent(stream)

    def _begin(self, stream: Stream) -> None:
        self._say(Begin(stream.number, stream.name, stream.layers, stream.tokens))

    def _end_if_sent(self, stream: Stream) -> None:
        encoded = len(stream.held) == len(stream.frames)
        if stream.all_put and encoded and not self._ready.count(stream) and self.connected and not stream.end_sent:
            stream.end_sent = True
            self._say(End(stream.number, stream.count))

    def _hold(self, stream: Stream, index: int, size_bytes: int) -> None:
        """Count the piece with `size_bytes` from now on; 0 for no longer."""
        change = size_bytes - stream.held.pop(index, 0)
        if size_bytes:
            stream.held[index] = size_bytes
        stream.held_bytes += change
        self._held_bytes += change

    def _fail(self, stream: Stream, error: str, now_s: float) -> None:
        stream.error = error
        self._over(stream, now_s)

    def _over(self, stream: Stream, now_s: float) -> None:
        stream.end_s = now_s
        good = stream.report is not None and stream.report.error is None
        trace_transfer(self._trace, Kind.DONE if good else Kind.FAILED, stream.name, stream.arrived_bytes)
        self._see(stream)
        self._streams.pop(stream.number, None)
        self._staged.drop(stream)
        self._ready.drop(stream)
        self._held_bytes -= stream.held_bytes
        stream.held.clear()
        stream.frames.clear()
        stream.held_bytes = 0
        self.ended.append(stream)

    def _see(self, stream: Stream) -> None:
        """Tell the estimator what it does not know yet: within a long transfer, too, the link may change."""
        self._link.observe(stream.arrived_bytes - stream.seen_bytes, stream.wire_s - stream.seen_s)
        stream.seen_bytes, stream.seen_s = stream.arrived_bytes, stream.wire_s

    def _say(self, message: protocol.ToReceiver) -> None:
        self._control.append([protocol.encode(message)])
