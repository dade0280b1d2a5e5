"""A table of a whole space as something that can be searched: every measurement is looked up, counted and timed."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from spacetable import SpaceTable
from tightwire.kv.profiler.pareto import hypervolume
from tightwire.kv.profiler.rates import compose
from tightwire.kv.profiler.search import Problem


class Whole:
    """What does not change between searches of one table."""

    def __init__(self, table: SpaceTable) -> None:
        self.table, self.space = table, table.space()
        space = self.space
        known = compose(space, table.rates)
        self.quality, self.few = np.array(table.full), np.array(table.few)
        self.seconds = {fidelity: table.seconds(fidelity) for fidelity in ("full", "few")}
        self.few_cost = self._share()
        self.problem = Problem.of(space, table.rates)
        self.gains = self.problem.scale.gains(known.ratio, known.time_s, self.quality[space.point])
        self.hypervolume = hypervolume(self.gains)
        self.best_ratio = np.zeros(space.points)
        np.maximum.at(self.best_ratio, space.point, known.ratio)
        self.total_s = table.rates_s + self._of(np.arange(space.points), "full")
        self.encoding = _encoding(space)

    @property
    def measured(self) -> int:
        """Measurements of quality that the whole space takes."""
        return int((~self.space.lossless).sum())

    @property
    def fitted(self) -> set[int]:
        """Strategies that are no pair of the grid's sides: presets fitted to the model."""
        codecs = np.bincount(self.space.k)[self.space.k], np.bincount(self.space.v)[self.space.v]
        return {i for i, p in enumerate(self.space.point) if min(codecs[0][p], codecs[1][p]) < 10 and not self.space.lossless[p]}

    def correlation(self) -> float:
        """Spearman's, of proxy and loss."""
        lossy = ~self.space.lossless
        ranks = [_ranks(values[lossy]) for values in (np.array(self.table.proxy), 1 - self.quality)]
        return float(np.corrcoef(*ranks)[0, 1])

    def best(self, quality: float) -> float:
        """The largest ratio in the space at that quality."""
        return float(self.best_ratio[self.quality >= quality].max())

    def _share(self) -> float:
        """Seconds of a measurement at low fidelity over those at full, sides included."""
        few, full = (sum(part.mean() for part in self.seconds[fidelity]) for fidelity in ("few", "full"))
        return float(few / full)

    def _of(self, points: np.ndarray, fidelity: str) -> float:
        """Seconds for measuring `points` in one process that keeps every side."""
        own, k, v = self.seconds[fidelity]
        space, total = self.space, float(own[points].sum())
        for side, cost in ((space.k, k), (space.v, v)):
            _, first = np.unique(side[points] * len(space.exacts) + space.exact[points], return_index=True)
            total += float(cost[points][first].sum())
        return total


class Replay:
    """One search: `measure` gives qualities; afterwards `share` of the hypervolume, `gap` of the ratio, seconds."""

    def __init__(self, whole: Whole) -> None:
        self.whole, self.space = whole, whole.space
        self.best_ratio, self.encoding = whole.best_ratio, whole.encoding
        self._asked: dict[str, list[int]] = {"full": [], "few": []}

    def measure(self, point: int, fidelity: str = "full") -> float:
        self._asked[fidelity].append(point)
        return float((self.whole.quality if fidelity == "full" else self.whole.few)[point])

    @property
    def evaluations(self) -> float:
        """In full ones; those at low fidelity count by their seconds."""
        return len(set(self._asked["full"])) + self.whole.few_cost * len(set(self._asked["few"]))

    @property
    def seconds(self) -> float:
        return sum(self.whole._of(np.array(sorted(set(points)), np.int64), which) for which, points in self._asked.items())

    def share(self) -> float:
        """Of the space's hypervolume that was found; a point brings all its codecs."""
        found = self._known()[self.space.point]
        return hypervolume(self.whole.gains[found]) / self.whole.hypervolume

    def gap(self, quality: float) -> float:
        """How far the best ratio found at `quality` stays behind the best there is, as a share of that."""
        good = self._known() & (self.whole.quality >= quality)
        best = self.best_ratio[good].max() if good.any() else 1.0
        return 1 - best / self.whole.best(quality)

    def _known(self) -> np.ndarray:
        known = self.space.lossless.copy()
        known[self._asked["full"]] = True
        return known


def _ranks(values: np.ndarray) -> np.ndarray:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]


def _encoding(space: object) -> np.ndarray:
    """A configuration as numbers `[P, F]`: families one-hot, and all numbers of a family scaled to 0 … 1."""
    columns = [np.eye(word.max() + 1)[word] for word in (*space.families, space.exact)]
    for sides, index in ((space.k_sides, space.k), (space.v_sides, space.v)):
        numbers = np.array([_levels(side) for side in sides])
        columns.append(((numbers - numbers.min()) / max(np.ptp(numbers), 1e-9))[index][:, None] * 2)
    return np.concatenate(columns, axis=1)


def _levels(side: tuple) -> float:
    """Mean bits that the numbers of a side ask for, times what is kept; 16 where nothing is lost."""
    bits, kept = 16.0, 1.0
    for stage in side:
        settings = {f.name: getattr(stage, f.name) for f in fields(stage)}
        kept *= settings.get("keep", 100) / 100
        if "levels" in settings:
            bits = np.log2(settings["levels"])
        elif "high" in settings:
            low = settings["share"] / 100
            bits = low * np.log2(settings["low"]) + (1 - low) * np.log2(settings["high"])
        elif "centibits" in settings:
            bits = settings["centibits"] / 100
        elif stage.name == "fp8":
            bits = 8.0
    return bits * kept
