"""The profiled space: which strategies there are, and what a surrogate can see of them without measuring quality.

Glossary. **point**: what of a strategy decides its quality, i.e. all but the codecs, which are exact; strategies that
differ in codecs only are one point. **side**: K's or V's part of a point, a chain without its last stage.
**family**: a side without its numbers. Within a family numbers have an order: more levels, more kept, less lost.
n strategies, P points, K and V sides, E kinds of exactness.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from tightwire.kv.presets import presets
from tightwire.kv.stages import STAGES
from tightwire.kv.stages.base import Stage
from tightwire.kv.stages.transforms.pca import Pca
from tightwire.kv.stages.transforms.rope import Rope
from tightwire.kv.strategy import RAW, Chain, Exact, Strategy

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Part = tuple[Stage, ...]
H = TypeVar("H", bound=Hashable)

_FINER = {"levels": 1, "high": 1, "low": 1, "centibits": 1, "keep": 1, "permille": 1, "rank": 1, "share": -1, "step": -1}


@dataclass(frozen=True)
class Calibrated:
    """What a model brings to the space. `tables`: names of calibrated tables by what they are for (`pca.k`, `pca.v`,
    `equalize.k`, `equalize.v`, `deadzone.k`, `deadzone.v`); `rope`: the stage that takes K out of its rotary embedding, empty where it has none."""

    tables: dict[str, str]
    rope: str


class Space:
    """Distinct strategies with their points. `point` `[n]`: of each strategy; `k`, `v`, `exact` `[P]`: of each point,
    indices into `k_sides`, `v_sides`, `exacts`; `at` `[P]`: a strategy of each point."""

    def __init__(self, strategies: Sequence[Strategy]) -> None:
        self.strategies = tuple(dict.fromkeys(strategies))
        parts = [(s.k.stages[:-1], s.v.stages[:-1], s.exact) for s in self.strategies]
        points, self.point = _index(parts)
        self.at: Ints = np.unique(self.point, return_index=True)[1]
        self.k_sides, self.k = _index([point[0] for point in points])
        self.v_sides, self.v = _index([point[1] for point in points])
        self.exacts, self.exact = _index([point[2] for point in points])

    def __len__(self) -> int:
        return len(self.strategies)

    @property
    def points(self) -> int:
        return len(self.at)

    @property
    def fingerprint(self) -> str:
        """Names these strategies in this order."""
        return f"space-{xxhash.xxh3_64_hexdigest(chr(10).join(map(str, self.strategies)).encode())}"

    @cached_property
    def lossless(self) -> Bools:
        """`[P]`: whether the point changes nothing."""
        plain = [[not side for side in sides] for sides in (self.k_sides, self.v_sides)]
        found: Bools = np.array(plain[0])[self.k] & np.array(plain[1])[self.v]
        return found

    @cached_property
    def families(self) -> tuple[Ints, Ints]:
        """(of K, of V) `[P]`: equal numbers for sides that differ in numbers only."""
        k, v = (_index([family(side) for side in sides])[1] for sides in (self.k_sides, self.v_sides))
        return k[self.k], v[self.v]

    def coarser(self, point: int) -> Bools:
        """`[P]`: which points have in no place more levels than `point`, and are like it otherwise (it itself too)."""
        k, v, exact = self._orders
        found: Bools = k[self.k[point]][self.k] & v[self.v[point]][self.v] & exact[self.exact[point]][self.exact]
        return found

    def finer(self, point: int) -> Bools:
        """`[P]`: the same the other way round."""
        k, v, exact = self._orders
        found: Bools = k[self.k, self.k[point]] & v[self.v, self.v[point]] & exact[self.exact, self.exact[point]]
        return found

    @cached_property
    def _orders(self) -> tuple[Bools, Bools, Bools]:
        """For K, V, exactness: `[i, j]`, whether j is as coarse as i or coarser."""
        sides = (np.array([[is_coarser(b, a) for b in s] for a in s]) for s in (self.k_sides, self.v_sides))
        exact = [
            [all(getattr(b, f.name) <= getattr(a, f.name) for f in fields(Exact)) for b in self.exacts]
            for a in self.exacts
        ]
        k, v = sides
        return k, v, np.array(exact)


def _index(items: Sequence[H]) -> tuple[list[H], Ints]:
    """(distinct items in their order, which of them each is)"""
    numbers = {item: number for number, item in enumerate(dict.fromkeys(items))}
    return list(numbers), np.array([numbers[item] for item in items], np.int64)


def family(side: Part) -> str:
    """A side without its numbers."""
    words = (
        ",".join([stage.name, *(str(value) for f in fields(stage) if isinstance(value := getattr(stage, f.name), str))])
        for stage in side
    )
    return "+".join(words)


def is_coarser(side: Part, other: Part) -> bool:
    """Whether `side` is `other` with fewer levels, less kept or more heads at low precision, or equal."""
    if len(side) != len(other):
        return False
    for a, b in zip(side, other, strict=True):
        if type(a) is not type(b):
            return False
        for field in fields(a):
            ours, theirs = getattr(a, field.name), getattr(b, field.name)
            way = _FINER.get(field.name, 0)
            if ours != theirs and (way == 0 or (theirs - ours) * way < 0):
                return False
    return True


def for_model(strategy: Strategy, calibrated: Calibrated) -> Strategy:
    """A published preset as it is meant for a model: with its rotary frequencies, and its calibrated bases."""

    def fit(stage: Stage, side: str) -> Stage:
        if isinstance(stage, Rope) and calibrated.rope:
            return _stage(calibrated.rope)
        if isinstance(stage, Pca) and stage.over == "heads":
            return replace(stage, table=calibrated.tables[f"pca.{side}"])
        return stage

    k, v = (
        Chain(tuple(fit(stage, side) for stage in chain.stages)) for side, chain in (("k", strategy.k), ("v", strategy.v))
    )
    return Strategy(k, v, strategy.exact)


def published(calibrated: Calibrated) -> dict[str, str]:
    """Names of the presets by their strategies, as they stand and fitted to the model."""
    found = {}
    for name, preset in presets().items():
        found[str(preset.strategy)] = name
        found.setdefault(str(for_model(preset.strategy, calibrated)), f"{name}, fitted")
    return found


def standard(calibrated: Calibrated) -> Space:
    """What `tightwire kv profile` searches: every pair of a K side and a V side, with and without exact tokens, each
    with the smallest codec and the fastest; and the published presets, as they stand and fitted to the model."""
    k_sides, v_sides = (_sides(texts) for texts in (_k_sides(calibrated), _v_sides(calibrated)))
    found = [RAW, Strategy.parse("exponent"), *map(Strategy.parse, published(calibrated))]
    for exact, k, v in product(_EXACTS, k_sides, v_sides):
        found += [Strategy(Chain((*k, codec)), Chain((*v, codec)), exact) for codec in _CODECS]
    return Space(found)


_EXACTS = (Exact(), Exact(sinks=4, recent=32))
_WIDTHS = {50: (100, 150, 200), 75: (100, 150, 200, 250, 300), 100: (40, 60, 80, 100, 125, 150, 200, 250, 300, 350)}  # steps by `keep`
_CODECS = (STAGES["rans"](), STAGES["pack"]())


def _k_sides(calibrated: Calibrated) -> list[str]:
    pca, equalize, steps = (calibrated.tables[f"{use}.k"] for use in ("pca", "equalize", "deadzone"))
    rope = f"{calibrated.rope}+" if calibrated.rope else ""
    sides = [f"uniform:levels={n}" for n in (6, 8, 12, 16, 24)]
    sides += [f"hadamard+uniform:levels={n}" for n in (6, 8, 12, 16, 24)]
    sides += [f"uniform:levels={n},axis=channel" for n in (6, 8, 12, 16)]
    sides += [f"{rope}uniform:levels={n},axis=channel" for n in (4, 6, 8, 12, 16)]
    sides += [f"{rope}hadamard+uniform:levels={n}" for n in (8, 16)]
    sides += [f"equalize:table={equalize}+mixed:high={h},low={n},share=50" for h, n in ((12, 6), (16, 8), (24, 12))]
    sides += [f"mixed:high={h},low={n},share=50,axis=channel" for h, n in ((12, 6), (16, 8))]
    sides += [f"{rope}nonuniform:levels={n},axis=channel" for n in (4, 8, 16)]
    sides += [f"{rope}outliers+uniform:levels={n},axis=channel" for n in (4, 8)]
    sides += [f"allocate:centibits={bits}" for bits in (200, 250, 300, 400)]
    sides += [f"{rope}allocate:centibits={bits}" for bits in (175, 200, 250, 300, 400)]
    sides += [
        f"{rope}pca:over=heads,keep={keep},table={pca}+deadzone:step={step},table={steps}"
        for keep, widths in _WIDTHS.items()
        for step in widths
    ]
    sides += [f"{rope}pca:over=heads,table={pca}+allocate:centibits={bits},channels=8" for bits in (200, 300)]
    return sides


def _v_sides(calibrated: Calibrated) -> list[str]:
    pca, equalize, steps = (calibrated.tables[f"{use}.v"] for use in ("pca", "equalize", "deadzone"))
    sides = [f"uniform:levels={n}" for n in (3, 4, 6, 8, 12, 16)]
    sides += [f"hadamard+uniform:levels={n}" for n in (4, 6, 8, 16)]
    sides += [f"uniform:levels={n},axis=channel" for n in (3, 4, 6, 8)]
    sides += [f"equalize:table={equalize}+mixed:high={h},low={n},share=50" for h, n in ((6, 3), (8, 4), (12, 6))]
    sides += [f"mixed:high={h},low={n},share=50" for h, n in ((6, 3), (8, 4))]
    sides += [f"nonuniform:levels={n},axis=token" for n in (4, 8)]
    sides += ["outliers:by=token+uniform:levels=4"]
    sides += [f"allocate:centibits={bits}" for bits in (130, 150, 200, 250, 300)]
    sides += [
        f"pca:over=heads,keep={keep},table={pca}+deadzone:step={step},table={steps}"
        for keep, widths in _WIDTHS.items()
        for step in widths
    ]
    sides += [f"pca:over=heads,table={pca}+allocate:centibits={bits},channels=8" for bits in (150, 200)]
    return sides


def _sides(texts: list[str]) -> list[Part]:
    return [Strategy.parse(f"{text}+pack").k.stages[:-1] for text in texts]


def _stage(text: str) -> Stage:
    return Strategy.parse(f"{text}+uniform+pack").k.stages[0]
