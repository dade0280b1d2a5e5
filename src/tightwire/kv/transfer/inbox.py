"""What has arrived of each transfer: coverage, errors, and the blocks until somebody takes them. No sockets here."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tightwire.core.clock import Clock
from tightwire.kv.block import KVBlock
from tightwire.kv.transfer.protocol import Begin, End, Report

MAX_CELLS = 2**27  # layers × tokens of one transfer: 128 MiB of coverage at most
UNCLAIMED_S = 300.0


@dataclass(frozen=True)
class Received:
    """`missing`: token ranges (start, stop) of which at least one layer did not arrive; they must be recomputed."""

    transfer_id: str
    blocks: list[KVBlock]
    tokens: int
    missing: list[tuple[int, int]]
    error: str | None
    wire_bytes: int
    decode_s: float

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass(eq=False)
class _Transfer:
    touched_s: float
    covered: npt.NDArray[np.bool_] | None = None  # [layers, tokens]
    blocks: deque[KVBlock] = field(default_factory=deque)
    buffered_bytes: int = 0
    frames: int = 0
    wire_bytes: int = 0
    decode_s: float = 0.0
    error: str | None = None
    done: bool = False
    awaited: bool = False

    def missing(self) -> list[tuple[int, int]]:
        if self.covered is None:
            return []
        gaps = np.flatnonzero(np.diff(np.concatenate(([0], (~self.covered.all(axis=0)).astype(np.int8), [0]))))
        return [(int(start), int(stop)) for start, stop in gaps.reshape(-1, 2)]


class Inbox:
    """Thread-safe. Transfers nobody waits for are dropped after five minutes."""

    def __init__(self, clock: Clock, max_buffered_bytes: int) -> None:
        self._clock, self._max_buffered_bytes = clock, max_buffered_bytes
        self._transfers: dict[str, _Transfer] = {}
        self._changed = threading.Condition()

    def begin(self, message: Begin) -> None:
        with self._changed:
            now_s = self._clock.now_s()
            for name, old in list(self._transfers.items()):
                if not old.awaited and now_s - old.touched_s > UNCLAIMED_S:
                    del self._transfers[name]
            transfer = self._transfers.get(message.transfer)
            if transfer is None or not transfer.awaited or transfer.covered is not None:
                # A second Begin starts over: the sender lost its connection and tries again.
                awaited = transfer.awaited if transfer else False
                transfer = self._transfers[message.transfer] = _Transfer(now_s, awaited=awaited)
            if message.layers < 1 or message.tokens < 1 or message.layers * message.tokens > MAX_CELLS:
                self._fail(transfer, f"limit: {message.layers} layers × {message.tokens} tokens are not accepted")
                return
            transfer.covered = np.zeros((message.layers, message.tokens), np.bool_)

    def add(self, name: str, block: KVBlock, wire_bytes: int, decode_s: float) -> None:
        with self._changed:
            transfer = self._transfers.get(name)
            if transfer is None or transfer.covered is None or transfer.done:
                return
            layers, tokens = transfer.covered.shape
            end_layer, end_token = block.layer_start + block.layers, block.token_start + block.tokens
            if end_layer > layers or end_token > tokens:
                self._fail(
                    transfer,
                    f"shape: a frame ends at layer {end_layer}, token {end_token}; announced were {layers}, {tokens}",
                )
                return
            if transfer.buffered_bytes + block.raw_bytes > self._max_buffered_bytes:
                self._fail(transfer, f"limit: nobody took {transfer.buffered_bytes} decoded bytes")
                return
            transfer.covered[block.layer_start : end_layer, block.token_start : end_token] = True
            transfer.blocks.append(block)
            transfer.buffered_bytes += block.raw_bytes
            transfer.frames += 1
            transfer.wire_bytes += wire_bytes
            transfer.decode_s += decode_s
            transfer.touched_s = self._clock.now_s()
            self._changed.notify_all()

    def refuse(self, name: str, index: int, error: str) -> None:
        """A frame was damaged: the rest of the transfer may still be good."""
        with self._changed:
            transfer = self._transfers.get(name)
            if transfer is not None and transfer.error is None:
                transfer.error = f"frame {index}: {error}"

    def end(self, message: End) -> Report | None:
        with self._changed:
            transfer = self._transfers.get(message.transfer)
            if transfer is None:
                return Report(message.transfer, "unknown transfer: it was given up here", [], 0.0, self._clock.now_s())
            missing = transfer.missing()
            if transfer.error is None and (missing or transfer.frames != message.frames):
                transfer.error = f"{transfer.frames} of {message.frames} frames arrived; missing tokens: {missing}"
            transfer.done = True
            self._changed.notify_all()
            return Report(message.transfer, transfer.error, missing, transfer.decode_s, self._clock.now_s())

    def wait(self, name: str, timeout_s: float, on_block: Callable[[KVBlock], None] | None) -> Received:
        deadline_s = self._clock.now_s() + timeout_s
        collected: list[KVBlock] = []
        with self._changed:
            self._transfers.setdefault(name, _Transfer(self._clock.now_s())).awaited = True
        try:
            while True:
                with self._changed:
                    transfer = self._transfers[name]
                    if not transfer.blocks and not transfer.done:
                        left_s = deadline_s - self._clock.now_s()
                        if left_s <= 0:
                            started = "nothing arrived" if transfer.covered is None else "it was not completed"
                            self._fail(transfer, f"timeout: {started} within {timeout_s:g} s")
                        else:
                            self._changed.wait(left_s)
                    batch = list(transfer.blocks)
                    transfer.blocks.clear()
                    transfer.buffered_bytes = 0
                    finished = transfer.done
                for block in batch:
                    if on_block is None:
                        collected.append(block)
                    else:
                        on_block(block)
                if finished:
                    tokens = 0 if transfer.covered is None else transfer.covered.shape[1]
                    return Received(
                        name,
                        collected,
                        tokens,
                        transfer.missing(),
                        transfer.error,
                        transfer.wire_bytes,
                        transfer.decode_s,
                    )
        finally:
            with self._changed:
                self._transfers.pop(name, None)

    def _fail(self, transfer: _Transfer, error: str) -> None:
        transfer.error = transfer.error or error
        transfer.done = True
        self._changed.notify_all()
