"""Prompts' KV to the decode side, piece by piece, while the prompt is still being computed.

The copier hands over pieces; each transfer has a thread that waits for them, so that a slow link holds back nobody
else and never the engine. What waits is bounded: past it a transfer is given up, and the decode side recomputes.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import torch

from tightwire.errors import LinkError, TightwireError
from tightwire.kv.block import KVBlock
from tightwire.kv.engines.vllm.counters import Counters
from tightwire.kv.engines.vllm.plan import PUSH_TOKENS, Push
from tightwire.kv.strategy import Strategy
from tightwire.kv.transfer.sender import Outgoing, Sender, SendReport

logger = logging.getLogger(f"vllm.{__name__}")
PIECE_BYTES = 2**18  # layers are put together until a piece has these: what a frame costs must not count
MAX_PIECE_BYTES = 2**22  # longer pieces are cut, so that the stages overlap
_MAX_STAGED_BYTES = 2**30
_MAX_TRANSFERS = 64
_STOP_TIMEOUT_S = 5.0
_GIVEN_UP = object()


class Chooser(Protocol):
    """Which strategy for a transfer, and for what is left of it after `encoded_bytes`; learns from its report."""

    def choose(self, push: Push, raw_bytes: int, pieces: int) -> Strategy: ...

    def revise(self, push: Push, encoded_bytes: int) -> Strategy | None: ...

    def sent(self, push: Push, piece: KVBlock) -> None: ...

    def learn(self, push: Push, report: SendReport | None) -> None: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class _Transfer:
    push: Push
    pieces: queue.SimpleQueue[object] = field(default_factory=queue.SimpleQueue)
    layers: list[tuple[int, torch.Tensor, torch.Tensor]] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Peer:
    """A decode side: the way to it, and what is learnt about that way."""

    sender: Sender
    chooser: Chooser


class Pusher:
    """`peers` by endpoint, the first is the default; `layers` and `token_bytes` (of K and V of one token in all layers) are those of the engine's model."""

    def __init__(
        self, peers: Mapping[str, Peer], counters: Counters, *, layers: int, token_bytes: int, timeout_s: float
    ) -> None:
        self._peers, self._counters = dict(peers), counters
        self._layers, self._token_bytes, self._timeout_s = layers, token_bytes, timeout_s
        self._lock = threading.Lock()
        self._transfers: dict[str, _Transfer] = {}  # by request
        self._staged_bytes = 0
        self._closing = False
        self._pool = ThreadPoolExecutor(_MAX_TRANSFERS, "tightwire-push")

    def begin(self, push: Push) -> None:
        """A step starts that computes this piece. The first one of a request starts its transfer."""
        with self._lock:
            if push.start == 0 and push.request_id not in self._transfers and not self._closing:
                transfer = self._transfers[push.request_id] = _Transfer(push)
                self._pool.submit(self._run, transfer)

    def add(self, push: Push, layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """K and V `[H, T, D]` of one layer of a piece; layers come in order."""
        transfer = self._transfers.get(push.request_id)
        if transfer is None:  # given up
            return
        group = transfer.layers
        group.append((layer, k, v))
        if layer + 1 < self._layers and sum(2 * k.nbytes for _, k, _ in group) < PIECE_BYTES:
            return
        block = KVBlock(
            torch.stack([k for _, k, _ in group]), torch.stack([v for _, _, v in group]), group[0][0], push.start,
            self._layers, push.total,
        )  # fmt: skip
        group.clear()
        tokens = max(MAX_PIECE_BYTES * block.tokens // block.raw_bytes // 32 * 32, 32)
        for piece in block.token_chunks(tokens):
            self._stage(transfer, piece)
        if push.last and layer + 1 == self._layers:
            transfer.pieces.put(None)

    def cancel(self, request_id: str) -> None:
        with self._lock:
            transfer = self._transfers.pop(request_id, None)
        if transfer is not None:
            transfer.pieces.put(_GIVEN_UP)

    def close(self) -> None:
        """Waits a little for what is underway, then gives it up."""
        with self._lock:
            self._closing = True
        end_s = time.monotonic() + _STOP_TIMEOUT_S
        while self._transfers and time.monotonic() < end_s:
            time.sleep(0.01)
        for name in list(self._transfers):
            self.cancel(name)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for peer in self._peers.values():
            peer.sender.close()
            peer.chooser.close()

    def _stage(self, transfer: _Transfer, piece: KVBlock) -> None:
        with self._lock:
            full = self._staged_bytes + piece.raw_bytes > _MAX_STAGED_BYTES
            if not full:
                self._staged_bytes += piece.raw_bytes
        if full:
            logger.warning(
                "tightwire: %s given up: %d bytes wait for the link", transfer.push.transfer_id, _MAX_STAGED_BYTES
            )
            self.cancel(transfer.push.request_id)
        else:
            transfer.pieces.put(piece)

    def _run(self, transfer: _Transfer) -> None:
        push = transfer.push
        outgoing: Outgoing | None = None
        report: SendReport | None = None
        raw_bytes = push.total * self._token_bytes
        pieces = max(1, min(raw_bytes // PIECE_BYTES, push.total * self._layers // PUSH_TOKENS))
        peer = self._peer(push)
        try:
            strategy = peer.chooser.choose(push, raw_bytes, pieces)
            self._counters.last_strategy = strategy.short
            outgoing = peer.sender.start(
                push.transfer_id, strategy, layers=self._layers, tokens=push.total, timeout_s=self._timeout_s,
                revise=lambda encoded_bytes: peer.chooser.revise(push, encoded_bytes),
            )  # fmt: skip
            while isinstance(piece := transfer.pieces.get(timeout=self._timeout_s), KVBlock):
                try:
                    outgoing.put(piece)
                    peer.chooser.sent(push, piece)
                finally:
                    self._release(piece)
            if piece is _GIVEN_UP:
                raise LinkError("it was given up")
            report = outgoing.finish(self._timeout_s)
            if not report.ok:
                raise TightwireError(report.error)
            self._counters.add(
                sends=1, tokens_sent=push.total, raw_bytes=report.raw_bytes, wire_bytes=report.wire_bytes,
                encode_seconds=report.encode_s, wire_seconds=report.wire_s, decode_seconds=report.decode_s,
                transfer_seconds=report.total_s,
            )  # fmt: skip
        except Exception as error:  # whatever it is: the decode side recomputes, and the next transfer is tried
            if outgoing is not None and report is None:
                outgoing.cancel(str(error) or type(error).__name__)
            self._counters.add(sends_failed=1)
            logger.warning("tightwire: sending %s failed: %s", push.transfer_id, error or type(error).__name__)
        finally:
            with self._lock:
                self._transfers.pop(push.request_id, None)
            while not transfer.pieces.empty():
                self._release(transfer.pieces.get())
            peer.chooser.learn(push, report)

    def _peer(self, push: Push) -> Peer:
        asked = push.options.endpoint
        if asked is not None and asked not in self._peers:
            logger.warning(
                "tightwire: %s: endpoint %r is not in the settings; using the first", push.transfer_id, asked
            )
        default = next(iter(self._peers.values()))
        return self._peers.get(asked, default) if asked is not None else default

    def _release(self, piece: object) -> None:
        if isinstance(piece, KVBlock):
            with self._lock:
                self._staged_bytes -= piece.raw_bytes
