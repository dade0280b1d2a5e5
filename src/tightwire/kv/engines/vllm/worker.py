"""The worker's half: moves KV between the engine's memory and peers or a store, on threads of its own.

The engine's thread only says what was computed. A copier reads it out of the blocks while the next layers are being
computed; before the step ends, and so before any block can be used for something else, the copies are complete.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from tightwire.kv import blas
from tightwire.kv.block import KVBlock
from tightwire.kv.control.log import DecisionLog, file_of
from tightwire.kv.engines.vllm.auto import Auto, Fixed, Pace
from tightwire.kv.engines.vllm.blocks import Blocks
from tightwire.kv.engines.vllm.counters import Counters
from tightwire.kv.engines.vllm.layout import Layout
from tightwire.kv.engines.vllm.links import receiver, sender, watch
from tightwire.kv.engines.vllm.loads import Loads
from tightwire.kv.engines.vllm.plan import Move, Plan
from tightwire.kv.engines.vllm.pull import Puller
from tightwire.kv.engines.vllm.push import Peer, Pusher
from tightwire.kv.engines.vllm.settings import Settings
from tightwire.kv.engines.vllm.shelf import Shelf
from tightwire.kv.profiles import ProfileLibrary
from tightwire.kv.store import PrefixStore

logger = logging.getLogger(f"vllm.{__name__}")
_IDLE_WAIT_S = 0.005  # as long may a new request wait for an engine that waits for loads


class Worker:
    """Usable after `register`. A receiver listens from the start: `endpoint`."""

    def __init__(self, settings: Settings, fingerprint: str, prefixes: PrefixStore | None = None) -> None:
        blas.on_one_thread()
        self.settings, self.fingerprint = settings, fingerprint
        self._prefixes, self.counters = prefixes, Counters()
        self.endpoint = settings.endpoint
        self._pace = Pace()
        self._library = ProfileLibrary.load(Path(settings.library)) if settings.library else None
        self._watch = watch() if settings.pushes and self._library is not None else None
        self._receiver = receiver(settings, fingerprint) if settings.pulls else None
        if self._receiver is not None:
            self.endpoint = self._receiver.endpoint
            logger.info("tightwire: waiting for KV at %s", self.endpoint)
        self._blocks: Blocks | None = None
        self._pusher: Pusher | None = None
        self._puller: Puller | None = None
        self._shelf: Shelf | None = None
        self._copier = ThreadPoolExecutor(1, "tightwire-copy")
        self._step = _Step(Plan())
        self._idle = False  # the step computes nothing

    def register(self, layout: Layout, caches: dict[str, torch.Tensor]) -> None:
        """The engine's memory, by layer in order. Raises LayoutError when it is not of `layout`."""
        settings = self.settings
        self._layer_numbers = {name: number for number, name in enumerate(caches)}
        blocks = self._blocks = Blocks(layout, list(caches.values()))
        # Threads begin with the affinity of this one, which vLLM on CPU pins to a core that it computes on.
        on_cpu = all(cache.device.type == "cpu" for cache in caches.values())
        self._one_core = on_cpu and torch.get_num_threads() >= len(os.sched_getaffinity(0))
        self._loads = Loads(blocks, self.counters)
        if settings.pushes:
            self._pusher = Pusher(
                {endpoint: self._peer(endpoint) for endpoint in settings.endpoints}, self.counters,
                layers=blocks.layers, token_bytes=blocks.raw_bytes(1), timeout_s=settings.timeout_s,
            )  # fmt: skip
        if self._receiver is not None:
            self._puller = Puller(self._receiver, self._loads, settings.timeout_s)
        if self._prefixes is not None:
            self._shelf = Shelf(settings, self._prefixes, self._loads, self.counters)

    def begin(self, plan: Plan) -> None:
        """A step starts."""
        self._step, self._idle = _Step(plan, start_s=time.monotonic()), plan.scheduled == 0
        for name in plan.cancels:
            for part in (self._pusher, self._puller):
                if part is not None:
                    part.cancel(name)
        if self._pusher is not None:
            for push in plan.pushes:
                self._pusher.begin(push)

    def load(self) -> None:
        """Start the step's loads."""
        for move in self._step.plan.pulls:
            assert self._puller is not None
            self._puller.pull(move)
        if self._puller is not None:
            self._puller.tick()
        for fetch in self._step.plan.fetches:
            assert self._shelf is not None
            self._shelf.fetch(fetch)

    def computed(self, layer_name: str) -> None:
        """The engine's work on this layer is issued."""
        if self._step.plan.pushes and (number := self._layer_numbers.get(layer_name)) is not None:
            self._copy(number)

    def end(self) -> None:
        """The step ends: returns when everything that it has to send or save is copied."""
        step, blocks = self._step, self._blocks
        start_s = time.monotonic()
        if step.plan.pushes:
            assert blocks is not None
            self._copy(blocks.layers - 1)  # a layer that did not speak for itself
        if step.plan.saves:
            step.copies.append(self._copier.submit(self._save, step.plan, self._written()))
        for copy in step.copies:
            copy.result()
        if step.copies:
            self.counters.add(copy_seconds=time.monotonic() - start_s)
        if step.plan.scheduled:
            self._pace.observe(step.plan.scheduled, time.monotonic() - step.start_s)
        self._step = _Step(Plan())

    def take_finished(self) -> set[str]:
        """Loads that ended. An engine that has nothing to compute until one does would ask again and again, and take from
        it the time of the threads that load."""
        if self._blocks is None:
            return set()
        return self._loads.take_finished(_IDLE_WAIT_S if self._idle else 0.0)

    def take_bad_blocks(self) -> set[int]:
        return self._loads.take_bad_blocks() if self._blocks is not None else set()

    def stats(self) -> dict[str, float | str]:
        """Totals since the start, and the strategy chosen last."""
        return {**self.counters.totals(), "last_strategy": self.counters.last_strategy}

    def close(self) -> None:
        for part in (self._pusher, self._puller, self._shelf, self._watch):
            if part is not None:
                part.close()
        if self._puller is None and self._receiver is not None:
            self._receiver.close()
        self._copier.shutdown(wait=False, cancel_futures=True)
        self._pusher = self._puller = self._shelf = self._receiver = None

    def _peer(self, endpoint: str) -> Peer:
        if self._library is None:
            return Peer(sender(self.settings, endpoint, self.fingerprint), Fixed(self.settings))
        watched = self._watch.link(endpoint) if self._watch is not None else None
        link = sender(self.settings, endpoint, self.fingerprint, watched)
        auto = Auto(self.settings, self._library, link, self._pace, self._log(endpoint), self._one_core)
        if watched is not None:
            watched.listener = auto
        return Peer(link, auto)

    def _log(self, endpoint: str) -> DecisionLog | None:
        """Of the decisions for `endpoint`: the first one's is where the settings say, others have their number."""
        if not self.settings.decisions:
            return None
        path, number = file_of(Path(self.settings.decisions)), self.settings.endpoints.index(endpoint)
        return DecisionLog(path.with_stem(f"{path.stem}-{number}") if number else path)

    def _copy(self, number: int) -> None:
        """Have the layers up to `number` copied that are not yet."""
        step = self._step
        if number >= step.next_layer:
            step.copies.append(
                self._copier.submit(self._push, step.plan, range(step.next_layer, number + 1), self._written())
            )
            step.next_layer = number + 1

    def _written(self) -> torch.cuda.Event | None:
        assert self._blocks is not None
        return self._blocks.written()

    def _push(self, plan: Plan, layers: Sequence[int], after: torch.cuda.Event | None) -> None:
        assert self._blocks is not None
        for push in plan.pushes:
            pusher = self._pusher
            if pusher is None:
                return
            try:
                for layer in layers:
                    pusher.add(push, layer, *self._blocks.read(layer, push, after))
            except Exception as error:  # the engine goes on: the decode side recomputes
                logger.warning("tightwire: copying KV of %s failed: %s", push.transfer_id, error)
                pusher.cancel(push.request_id)

    def _save(self, plan: Plan, after: torch.cuda.Event | None) -> None:
        for move in plan.saves:
            shelf = self._shelf
            if shelf is None or not shelf.has_room(move):
                continue
            block = None
            try:
                block = self._read(move, after)
            except Exception as error:  # as above; the prefix is not in the store
                logger.warning("tightwire: copying KV of %s for the store failed: %s", move.request_id, error)
            shelf.save(move, block)

    def _read(self, move: Move, after: torch.cuda.Event | None) -> KVBlock:
        assert self._blocks is not None
        pairs = [self._blocks.read(layer, move, after) for layer in range(self._blocks.layers)]
        k, v = (torch.stack([pair[side] for pair in pairs]) for side in (0, 1))
        return KVBlock(k, v, token_start=move.start)


@dataclass
class _Step:
    plan: Plan
    start_s: float = 0.0
    next_layer: int = 0

    def __post_init__(self) -> None:
        self.copies: list[Future[None]] = []
