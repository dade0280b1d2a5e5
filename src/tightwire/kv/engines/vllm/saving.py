"""What prefixes are saved with."""

from __future__ import annotations

import threading
from pathlib import Path

from tightwire.kv.control.latency import model
from tightwire.kv.engines.vllm.settings import AUTO, Settings
from tightwire.kv.presets import resolve
from tightwire.kv.profiles import Profile, ProfileLibrary
from tightwire.kv.strategy import Strategy
from tightwire.net.estimator import LinkEstimator


class Saving:
    """The settings' strategy; with `auto`, of those within the quality budget the one that will be loaded fastest, wire and
    decoding in turn, over the store's link as loads have found it. Before the first load, the highest ratio: a store is
    read more often than written, and its link is mostly the slow part. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._link, self._lock = LinkEstimator(), threading.Lock()
        self._choices: list[tuple[Profile, Strategy]] = []
        if settings.strategy != AUTO:
            self.smallest = resolve(settings.strategy)
            return
        profiles = ProfileLibrary.load(Path(settings.library)).profiles
        allowed = [p for p in profiles if p.strategy == "raw" or p.quality >= settings.quality_budget]
        self._choices = [(p, Strategy.parse(p.strategy)) for p in allowed]
        self.smallest = max(self._choices, key=lambda each: each[0].ratio)[1]

    def observe(self, wire_bytes: int, busy_s: float) -> None:
        """A load: `wire_bytes` kept the link busy for `busy_s`."""
        with self._lock:
            self._link.observe(wire_bytes, busy_s)

    def strategy(self, raw_bytes: int, chunks: int) -> Strategy:
        """For a prefix of as many raw bytes in `chunks` objects."""
        with self._lock:
            link = self._link.estimate()
        if not self._choices or link is None:
            return self.smallest
        total_s = model(max(chunks, 1))

        def load_s(profile: Profile) -> float:
            return total_s(0.0, raw_bytes / profile.ratio / link.bytes_per_s, raw_bytes / profile.decode_bytes_per_s)

        return min(self._choices, key=lambda each: load_s(each[0]))[1]
