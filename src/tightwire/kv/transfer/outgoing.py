"""A transfer as its sender sees it: put pieces, finish or cancel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from tightwire.core.clock import Clock
from tightwire.errors import LinkError
from tightwire.kv.block import KVBlock
from tightwire.kv.strategy import Strategy
from tightwire.kv.transfer.outbox import Outbox, Share, Stream


@dataclass(frozen=True)
class SendReport:
    """One transfer as measured. `encode_s`, `wire_s` (the link was busy with it) and `decode_s` overlap: their sum may
    exceed `total_s`, from its start until the receiver said that everything is decoded. `tail_s`: what of it came
    after the last piece was put, which is what the caller waits for. `shares`: what each strategy did of it."""

    transfer_id: str
    frames: int
    raw_bytes: int
    wire_bytes: int
    encode_s: float
    wire_s: float
    decode_s: float
    total_s: float
    tail_s: float
    error: str | None
    missing: list[tuple[int, int]]
    shares: dict[Strategy, Share]

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def ratio(self) -> float:
        """Raw bytes ÷ bytes on the wire."""
        return self.raw_bytes / max(self.wire_bytes, 1)


class Desk:
    """What the callers' threads share with the sender's own: the outbox under a lock. `wake` rouses the thread that owns
    the socket."""

    def __init__(self, outbox: Outbox, clock: Clock, wake: Callable[[], None]) -> None:
        self.outbox, self.clock, self.wake = outbox, clock, wake
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)  # something was taken, answered or ended
        self.staged = threading.Condition(self.lock)  # there is something to encode, or the end came
        self.closed = False
        self.callbacks: dict[Stream, Callable[[SendReport], None]] = {}

    def settle(self) -> None:
        """Tell those who wait for transfers that are over. Called without the lock."""
        with self.lock:
            ended, self.outbox.ended = self.outbox.ended, []
            calls = [(self.callbacks.pop(stream), stream) for stream in ended if stream in self.callbacks]
            self.changed.notify_all()
        for callback, stream in calls:
            callback(report_of(stream))


class Outgoing:
    """An open transfer; one thread puts. Whatever ends it early (the receiver cancelled, nobody answers) is raised as
    LinkError by the next `put` or by `finish`."""

    def __init__(self, desk: Desk, stream: Stream) -> None:
        self._desk, self._stream = desk, stream

    @property
    def transfer_id(self) -> str:
        return self._stream.name

    @property
    def held_bytes(self) -> int:
        """Bytes of pieces and frames that the receiver has not taken."""
        return self._stream.held_bytes

    def put(self, piece: KVBlock, *, block: bool = True) -> bool:
        """Hand one piece (some layers × some tokens) over; it must not change before it was encoded. While the window
        is full this waits, or with `block=False` gives False and takes nothing."""
        desk, stream = self._desk, self._stream
        with desk.lock:
            assert not stream.all_put, "put after finish"
            while True:
                self._raise_if_over()
                if desk.outbox.has_room(stream, piece.raw_bytes):
                    break
                if not block:
                    return False
                desk.changed.wait()
            desk.outbox.stage(stream, piece, desk.clock.now_s())
            desk.staged.notify()
        return True

    def finish(self, timeout_s: float | None = None) -> SendReport:
        """Everything was put: wait for the receiver's report. Its `error` says what is missing there; LinkError is
        raised when no report comes, after `timeout_s` at the latest."""
        desk, stream = self._desk, self._stream
        self._all_put()
        deadline_s = None if timeout_s is None else desk.clock.now_s() + timeout_s
        with desk.lock:
            while not stream.over:
                left_s = None if deadline_s is None else deadline_s - desk.clock.now_s()
                if left_s is not None and left_s <= 0:
                    self.cancel(f"no report within {timeout_s:g} s: {desk.outbox.trouble}")
                    break
                desk.changed.wait(left_s)
            if stream.report is None:
                self._raise_if_over()
        return report_of(stream)

    def finish_async(self, callback: Callable[[SendReport], None]) -> None:
        """Everything was put: `callback` is called once, on a thread of the sender and soon, with the report; where
        none came, with one whose `error` says why."""
        with self._desk.lock:
            over = self._stream.over
            if not over:
                self._desk.callbacks[self._stream] = callback
        if over:
            callback(report_of(self._stream))
        else:
            self._all_put()

    def cancel(self, reason: str = "cancelled") -> None:
        """Over at once: what is staged is dropped and the receiver is told. After the end it does nothing."""
        with self._desk.lock:
            self._desk.outbox.fail(self._stream, reason, self._desk.clock.now_s())
            self._desk.changed.notify_all()
        self._desk.wake()

    def _all_put(self) -> None:
        with self._desk.lock:
            if not self._stream.over and not self._stream.all_put:
                self._desk.outbox.all_put(self._stream, self._desk.clock.now_s())
        self._desk.wake()

    def _raise_if_over(self) -> None:
        stream = self._stream
        if stream.over:
            raise LinkError(f"transfer {stream.name}: {stream.error or 'the receiver ended it'}")


def report_of(stream: Stream) -> SendReport:
    """What was measured of a transfer that is over."""
    report = stream.report
    error = stream.error if report is None else report.error
    return SendReport(
        stream.name, stream.count, stream.raw_bytes, stream.wire_bytes, stream.encode_s, stream.wire_s,
        report.decode_s if report else 0.0, stream.end_s - stream.start_s, stream.end_s - stream.last_put_s, error,
        report.missing if report else [], dict(stream.shares),
    )  # fmt: skip
