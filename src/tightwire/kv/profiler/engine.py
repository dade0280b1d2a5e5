"""A profiling run: rates of all, quality of a few, a library of the front. `Bench` is what is measured on.

The life of a run: begin (or find) the journal; measure the rates of all sides; ask the search, measure what it asks for,
tell it, until it asks no more; measure the published presets; measure front and presets once more, quality on prompts that
the search did not see (a winner was chosen by its luck, too) and speed as whole frames; give the library. Every measurement stands in the journal before it counts, and nothing else decides what comes next: a run that
was killed gives the same library when it is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from tightwire.kv.profiler.journal import Began, Journal, Measured, Rated, Sample, Verified
from tightwire.kv.profiler.pareto import front
from tightwire.kv.profiler.rates import Rates, compose
from tightwire.kv.profiler.search import Fidelity, Observation, Problem, Search, Settings
from tightwire.kv.profiler.space import Space
from tightwire.kv.profiles import Profile, ProfileLibrary
from tightwire.kv.strategy import RAW, Strategy

AT_ONCE = 8  # measurements between two writes of the journal


class Bench(Protocol):
    """What a run measures on; `fingerprint` names the model, `provenance` says all else that matters."""

    space: Space
    published: dict[str, str]  # names of the presets by their strategies
    fingerprint: str
    provenance: dict[str, str]

    def rates(self) -> Rates: ...

    def qualities(self, wanted: Sequence[tuple[Strategy, Sample]]) -> list[float]:
        """Relative qualities in the order of `wanted`, the same for the same strategy in every process."""
        ...

    def profile(self, strategy: Strategy, quality: float) -> Profile:
        """Measured as whole frames."""
        ...


class Progress(msgspec.Struct, frozen=True):
    """Where a run is: full measurements `spent` of `budget`, strategies on the `front`, its `hypervolume`, and the
    `best_ratio` of those found whose relative quality is at least `quality`."""

    spent: float
    budget: float
    front: int
    hypervolume: float
    best_ratio: float
    quality: float

    def __str__(self) -> str:
        return (
            f"{self.spent:.1f} of {self.budget:g} measurements, front {self.front}, hypervolume {self.hypervolume:.4f}, "
            f"best ratio at quality {self.quality:g}: {self.best_ratio:.2f}"
        )


class Found(msgspec.Struct, frozen=True):
    """A strategy whose quality was measured, with its `time_s` for a raw byte; `fresh`: on prompts that the search did not
    see; `preset`: its name, if it is one."""

    strategy: str
    ratio: float
    quality: float
    time_s: float
    on_front: bool
    fresh: bool = False
    preset: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """A run's library, all that was found on the way, and how it ended."""

    library: ProfileLibrary
    found: list[Found]
    progress: Progress


def run(bench: Bench, settings: Settings, journal: Path, say: Callable[[Progress], None]) -> Outcome:
    """Profile what `bench` measures, or go on with what `journal` holds."""
    space = bench.space
    with Journal(journal, Began(bench.fingerprint, space.fingerprint, settings)) as book:
        if book.rates is None:
            book.add(Rated(bench.rates()))
        assert book.rates is not None
        known = compose(space, book.rates)
        search = Search(Problem.of(space, book.rates), settings)
        while asked := search.ask():
            search.tell(_measure(bench, book, asked))
            say(_progress(search))
        progress = _progress(search)
        named = {i: bench.published[str(s)] for i, s in enumerate(space.strategies) if str(s) in bench.published}
        unknown = {int(space.point[i]) for i in named if np.isnan(search.known[space.point[i]])}
        search.tell(_measure(bench, book, [(point, "full") for point in sorted(unknown)]))
        raw = space.strategies.index(RAW)
        candidates = sorted({*search.front()[0], *named, raw})
        quality, fresh = search.known[space.point], np.zeros(len(space), bool)
        quality[candidates] = _qualities(bench, book, [(space.strategies[i], "fresh") for i in candidates])
        fresh[candidates] = True
        gains = search.problem.scale.gains(known.ratio[candidates], known.time_s[candidates], quality[candidates])
        on_front = {candidates[i] for i in front(gains)}
        # Raw is the way out of every trouble: it stays, also where a busy machine copied bytes more slowly than it packed them.
        chosen = [i for i in candidates if i in on_front or i == raw]
        for index in chosen:
            if str(space.strategies[index]) not in book.verified:
                book.add(Verified(bench.profile(space.strategies[index], float(quality[index]))))
        profiles = [book.verified[str(space.strategies[index])] for index in chosen]
        found = [
            Found(str(s), float(known.ratio[i]), float(quality[i]), float(known.time_s[i]), i in chosen, bool(fresh[i]),
                  named.get(i, ""))
            for i, s in enumerate(space.strategies)
            if np.isfinite(quality[i])
        ]  # fmt: skip
    provenance = {**bench.provenance, "space": space.fingerprint, "seed": str(settings.seed), "budget": f"{settings.budget:g}"}
    return Outcome(ProfileLibrary(bench.fingerprint, profiles, provenance), found, progress)


def _measure(bench: Bench, book: Journal, asked: Sequence[tuple[int, Fidelity]]) -> list[Observation]:
    wanted = [(bench.space.strategies[bench.space.at[point]], fidelity) for point, fidelity in asked]
    found = _qualities(bench, book, wanted)
    return [Observation(point, fidelity, quality) for (point, fidelity), quality in zip(asked, found, strict=True)]


def _qualities(bench: Bench, book: Journal, wanted: Sequence[tuple[Strategy, Sample]]) -> list[float]:
    """From the journal, or now, a few at a time: what a kill costs is no more than those."""
    new = list(dict.fromkeys((s, sample) for s, sample in wanted if (str(s), sample) not in book.measured))
    for begin in range(0, len(new), AT_ONCE):
        part = new[begin : begin + AT_ONCE]
        for (strategy, sample), quality in zip(part, bench.qualities(part), strict=True):
            book.add(Measured(str(strategy), sample, quality))
    return [book.measured[str(strategy), sample] for strategy, sample in wanted]


def _progress(search: Search) -> Progress:
    quality = search.settings.qualities[0]
    chosen, volume = search.front()
    good = search.known[search.problem.space.point] >= quality
    best = float(search.problem.ratio[good].max()) if good.any() else 1.0
    return Progress(search.spent, search.settings.budget, len(chosen), volume, best, quality)
