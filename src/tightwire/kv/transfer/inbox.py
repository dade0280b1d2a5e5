"""The receiving side's state: what has arrived of each transfer, what waits for a decoder and what for its taker. No
sockets here.

Decoded blocks wait for their taker up to `max_buffered_bytes` in all; then nothing more is decoded, so the frames are
not reported as taken and their sender stops. A transfer that somebody waits for always gets a first block decoded:
those that nobody takes cannot hold it up.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from tightwire.core.clock import Clock
from tightwire.core.events import Kind
from tightwire.core.trace import Trace, trace_transfer
from tightwire.errors import ConfigError, FrameError
from tightwire.kv.block import KVBlock
from tightwire.kv.frame import Header
from tightwire.kv.transfer.fair import FairQueue
from tightwire.kv.transfer.incoming import Job, Received, Transfer
from tightwire.kv.transfer.protocol import Ack, Begin, Cancel, End, Report, Taken, ToSender

MAX_CELLS = 2**27  # layers × tokens of one transfer: 128 MiB of coverage at most
MAX_TRANSFERS = 4096
UNCLAIMED_S = 300.0
LOST_S = 1.0  # a sender whose connection broke has as long to come back
MAX_GAPS = 4096  # that a report names
_REMEMBERED = 4096  # transfers that are over


class Inbox:
    """Thread-safe. `answer` takes what is to be said to a peer, from any thread."""

    def __init__(
        self,
        clock: Clock,
        max_buffered_bytes: int,
        answer: Callable[[bytes, ToSender], None],
        trace: Trace | None = None,
    ) -> None:
        self._trace = trace
        self._clock, self._max_buffered_bytes, self._answer = clock, max_buffered_bytes, answer
        self._names: dict[str, Transfer] = {}
        self._streams: dict[int, Transfer] = {}
        self._over: OrderedDict[int, Report | Cancel] = OrderedDict()
        self._refused: OrderedDict[str, str] = OrderedDict()  # cancelled before they began
        self._lost: OrderedDict[bytes, float] = OrderedDict()  # peers whose connection broke, since when
        self._frames: FairQueue[Transfer, Job] = FairQueue()
        self._queued_bytes = self._buffered_bytes = 0
        self._closed = False
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)  # for those who wait for a transfer
        self._work = threading.Condition(self._lock)  # for decoders

    @property
    def queued_bytes(self) -> int:
        """Frames that wait for a decoder or are with one."""
        return self._queued_bytes

    @property
    def buffered_bytes(self) -> int:
        """Decoded blocks that wait for their taker."""
        return self._buffered_bytes

    def begin(self, peer: bytes, message: Begin) -> None:
        with self._lock:
            if message.stream in self._over:
                self._answer(peer, self._over[message.stream])
                return
            known = self._streams.get(message.stream)
            if known is not None:  # the same sender after it lost its connection
                known.peer = peer
                return
            old = self._names.get(message.transfer)
            if message.transfer in self._refused:
                reason = self._refused.pop(message.transfer)
            elif message.layers < 1 or message.tokens < 1 or message.layers * message.tokens > MAX_CELLS:
                reason = f"limit: {message.layers} layers × {message.tokens} tokens are not accepted"
            elif len(self._streams) >= MAX_TRANSFERS:
                reason = f"limit: {MAX_TRANSFERS} transfers are open"
            else:
                reason = None
            if reason is not None:
                self._remember(Cancel(message.stream, reason))
                self._answer(peer, Cancel(message.stream, reason))
                if old is not None and old.stream == 0:
                    self._fail(old, reason)
                return
            if old is not None and old.stream != 0:  # the sender tries again: start over
                self._forget(old, "another transfer of this name began")
            awaited = old is not None and old.awaited
            transfer = Transfer(message.transfer, self._clock.now_s(), message.stream, peer, awaited=awaited)
            transfer.covered = np.zeros((message.layers, message.tokens), np.bool_)
            self._names[message.transfer] = self._streams[message.stream] = transfer
            if not awaited:
                trace_transfer(self._trace, Kind.ENTERED, transfer.name)

    def arrived(self, peer: bytes, stream: int, index: int, data: memoryview) -> None:
        with self._lock:
            transfer = self._streams.get(stream)
            if transfer is None or transfer.done:
                self._answer_over(peer, stream)
                return
            self._answer(peer, Ack(stream, index, self._clock.now_s()))
            transfer.touched_s = self._clock.now_s()
            if index in transfer.taken:
                self._answer(peer, Taken(stream, index))
            elif index not in transfer.arrived:
                transfer.arrived.add(index)
                transfer.wire_bytes += len(data)
                self._queued_bytes += len(data)
                self._frames.push(transfer, Job(transfer, index, data), len(data))
                self._work.notify()

    def end(self, peer: bytes, message: End) -> None:
        with self._lock:
            transfer = self._streams.get(message.stream)
            if transfer is None or transfer.done:
                self._answer_over(peer, message.stream)
                return
            transfer.announced = message.frames
            self._report_if_complete(transfer)

    def cancelled(self, message: Cancel) -> None:
        """The sender gave it up."""
        with self._lock:
            transfer = self._streams.get(message.stream)
            if transfer is not None and not transfer.done:
                self._fail(transfer, f"the sender gave it up: {message.reason}")

    def next_job(self) -> Job | None:
        """The next frame to decode, whoever's turn it is; waits for one. None: closed."""
        with self._lock:
            while not self._closed:
                found = self._frames.pop(self._may_decode)
                if found is not None:
                    return found[1]
                self._work.wait()
            return None

    def check(self, job: Job, header: Header) -> None:
        """Raises FrameError when the frame lies outside of what was announced; asked before memory is taken."""
        assert job.transfer.covered is not None
        layers, tokens = job.transfer.covered.shape
        end_layer, end_token = header.layer_start + header.layers, header.token_start + header.tokens
        if end_layer > layers or end_token > tokens:
            raise FrameError(
                "shape", f"it ends at layer {end_layer}, token {end_token}; announced were {layers}, {tokens}"
            )

    def decoded(self, job: Job, block: KVBlock | FrameError, decode_s: float) -> None:
        """The frame became a block or was refused: the rest of the transfer may still be good."""
        with self._lock:
            transfer = job.transfer
            self._queued_bytes -= len(job.data)
            if transfer.done:
                return
            if isinstance(block, FrameError):
                transfer.error = transfer.error or f"frame {job.index}: {block}"
            else:
                assert transfer.covered is not None
                layers = slice(block.layer_start, block.layer_start + block.layers)
                transfer.covered[layers, block.token_start : block.token_start + block.tokens] = True
                transfer.blocks.append(block)
                transfer.buffered_bytes += block.raw_bytes
                self._buffered_bytes += block.raw_bytes
            transfer.decode_s += decode_s
            transfer.taken.add(job.index)
            transfer.touched_s = self._clock.now_s()
            self._answer(transfer.peer, Taken(transfer.stream, job.index, decode_s))
            trace_transfer(self._trace, Kind.PROGRESS, transfer.name, transfer.wire_bytes)
            self._report_if_complete(transfer)
            self._changed.notify_all()

    def wait(self, name: str, timeout_s: float, on_block: Callable[[KVBlock], None] | None) -> Received:
        deadline_s = self._clock.now_s() + timeout_s
        collected: list[KVBlock] = []
        with self._lock:
            self._refused.pop(name, None)
            if name not in self._names:
                self._names[name] = Transfer(name, self._clock.now_s())
                trace_transfer(self._trace, Kind.ENTERED, name)
            transfer = self._names[name]
            if transfer.awaited:
                raise ConfigError(
                    f"transfer_id={name!r} is waited for by another thread; give each transfer its own id"
                )
            transfer.awaited = True
            self._work.notify_all()
        why = "its receiver failed"
        try:
            while True:
                with self._lock:
                    if self._names[name] is not transfer:  # it began again
                        transfer = self._names[name]
                        collected.clear()
                    if not transfer.blocks and not transfer.done:
                        left_s = deadline_s - self._clock.now_s()
                        if left_s <= 0:
                            started = "nothing arrived" if transfer.covered is None else "it was not completed"
                            self._fail(transfer, f"timeout: {started} within {timeout_s:g} s")
                        else:
                            self._changed.wait(left_s)
                    batch = self._take_blocks(transfer)
                    finished = transfer.done and not batch
                for block in batch:
                    if on_block is None:
                        collected.append(block)
                    else:
                        on_block(block)
                if finished:
                    why = transfer.error or ""
                    tokens = 0 if transfer.covered is None else transfer.covered.shape[1]
                    return Received(
                        name, collected, tokens, transfer.missing(), transfer.error, transfer.wire_bytes,
                        transfer.decode_s,
                    )  # fmt: skip
        finally:
            with self._lock:
                self._forget(transfer, why)

    def cancel(self, name: str, reason: str) -> None:
        """Whoever waits for it gets this as its error; its sender is told, now or when it begins."""
        with self._lock:
            transfer = self._names.get(name)
            if transfer is None:
                self._remember_refused(name, reason)
                return
            if transfer.stream == 0:
                self._remember_refused(name, reason)
            self._fail(transfer, reason)
            if not transfer.awaited:
                self._forget(transfer, reason)

    def lost(self, peer: bytes) -> None:
        """Its connection broke. It has `LOST_S` to come back with another."""
        with self._lock:
            self._lost[peer] = self._clock.now_s()
            while len(self._lost) > _REMEMBERED:
                self._lost.popitem(last=False)

    def expire(self) -> None:
        """End the transfers whose sender is gone and forget those that nobody waits for."""
        with self._lock:
            now_s = self._clock.now_s()
            for transfer in list(self._names.values()):
                if transfer.announced is None and now_s - self._lost.get(transfer.peer, now_s) > LOST_S:
                    self._fail(transfer, "the sender was lost and did not come back")
                if not transfer.awaited and now_s - transfer.touched_s > UNCLAIMED_S:
                    self._forget(transfer, f"nobody took it within {UNCLAIMED_S:g} s")

    def close(self) -> None:
        """Everything ends: waits return and decoders get no more work."""
        with self._lock:
            self._closed = True
            for transfer in list(self._names.values()):
                self._fail(transfer, "the receiver was closed")
            self._work.notify_all()

    def _may_decode(self, transfer: Transfer) -> bool:
        first = transfer.awaited and transfer.buffered_bytes == 0
        return first or self._buffered_bytes < self._max_buffered_bytes

    def _take_blocks(self, transfer: Transfer) -> list[KVBlock]:
        batch = list(transfer.blocks)
        transfer.blocks.clear()
        self._buffered_bytes -= transfer.buffered_bytes
        transfer.buffered_bytes = 0
        if batch:
            self._work.notify_all()
        return batch

    def _report_if_complete(self, transfer: Transfer) -> None:
        # A connection keeps its order: what is announced after the last frame has arrived or was lost for good.
        if transfer.announced is None or len(transfer.taken) != len(transfer.arrived):
            return
        missing = transfer.missing()
        if transfer.error is None and (missing or len(transfer.taken) != transfer.announced):
            transfer.error = (
                f"{len(transfer.taken)} of {transfer.announced} frames arrived; missing tokens: {missing[:20]}"
            )
        self._end(transfer)
        report = Report(transfer.stream, transfer.error, missing[:MAX_GAPS], transfer.decode_s)
        self._remember(report)
        self._answer(transfer.peer, report)
        self._changed.notify_all()

    def _fail(self, transfer: Transfer, error: str) -> None:
        """It ends here with an error; its sender is told, its frames are dropped."""
        if transfer.done:
            return
        transfer.error = error
        self._end(transfer)
        self._frames_dropped(transfer)
        if transfer.stream:
            self._remember(Cancel(transfer.stream, error))
            self._answer(transfer.peer, Cancel(transfer.stream, error))
        self._changed.notify_all()

    def _end(self, transfer: Transfer) -> None:
        transfer.done = True
        kind = Kind.DONE if transfer.error is None else Kind.FAILED
        trace_transfer(self._trace, kind, transfer.name, transfer.wire_bytes)

    def _forget(self, transfer: Transfer, why: str) -> None:
        self._fail(transfer, why)
        self._take_blocks(transfer)
        self._streams.pop(transfer.stream, None)
        if self._names.get(transfer.name) is transfer:
            del self._names[transfer.name]

    def _frames_dropped(self, transfer: Transfer) -> None:
        while (found := self._frames.pop(lambda each: each is transfer)) is not None:
            self._queued_bytes -= len(found[1].data)
        self._frames.drop(transfer)

    def _answer_over(self, peer: bytes, stream: int) -> None:
        """To a frame of a transfer that is over or was never begun: how it ended."""
        if stream in self._over:
            self._answer(peer, self._over[stream])

    def _remember(self, message: Report | Cancel) -> None:
        self._over[message.stream] = message
        while len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)

    def _remember_refused(self, name: str, reason: str) -> None:
        self._refused[name] = reason
        while len(self._refused) > _REMEMBERED:
            self._refused.popitem(last=False)
