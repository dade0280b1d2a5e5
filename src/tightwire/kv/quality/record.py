"""What a strategy costs in quality, as a record, and its intervals.

Glossary. For a prompt with n answer tokens: kl = Σ over them of KL(raw ‖ strategy) in nats; fidelity = exp(−kl), for
held-out text exp(−kl ÷ n). **relative** = mean over the cells (task and length) of the mean fidelity of their prompts.

exp(−kl) is the probability that the strategy gives to the whole answer that raw KV would give, over the probability
that raw KV itself gives to it, in the geometric mean over what raw KV might answer. Where raw KV is sure, this is
p(answer) with the strategy: 1 − relative is the share of answers that sampling would get wrong. It is 1 for raw KV, never
above, and smooth: a loss of 0.1 % shows long before a greedy answer flips, and a flipped answer costs at least half.
For text, exp(−kl ÷ n) is raw KV's perplexity on its own continuation over the strategy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Fidelity = Literal["full", "few"]
_RESAMPLES = 1000
_LOW, _HIGH = 0.025, 0.975


class Estimate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure with its 95 % interval: bootstrap over the prompts of each cell, raw and strategy on the same ones."""

    value: float
    low: float
    high: float


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One task at one length: the share of exactly right greedy answers with raw KV, with the strategy, and the second
    over the first (None where raw KV gets none right)."""

    task: str
    length: int
    raw: float
    strategy: float
    relative: Estimate | None


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one strategy against raw KV. `kl`: nats for each position; `perplexity`: on held-out text, over that of raw KV;
    `agreement`: share of positions with the same greedy token; `exact`: by task and length; `relative`: see above."""

    strategy: str
    relative: float
    relative_ci: tuple[float, float]
    kl: Estimate
    perplexity: Estimate
    agreement: Estimate
    exact: list[Cell]

    @property
    def standard_error(self) -> float:
        """Of `relative`, by the lower half of its interval."""
        return (self.relative - self.relative_ci[0]) / 1.96


@dataclass(frozen=True, eq=False)
class Scores:
    """One row for each prompt. Of its answer tokens: how many; summed KL; summed surprise with raw KV and with the
    strategy in nats; how many greedy tokens agree; whether all are right with raw KV and with the strategy."""

    positions: F64
    kl: F64
    raw_nats: F64
    nats: F64
    agree: F64
    raw_right: F64
    right: F64

    @classmethod
    def join(cls, parts: list[Scores]) -> Scores:
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


class Summary:
    """Makes records from scores. `cells`: (task, length) of each prompt, in the order of the scores."""

    def __init__(self, cells: list[tuple[str, int]], seed: int) -> None:
        self.names = list(dict.fromkeys(cells))
        self._cell = np.array([self.names.index(cell) for cell in cells])
        self._text = np.array([task == "text" for task, _ in cells])
        rng = np.random.default_rng(seed)
        members = [np.flatnonzero(self._cell == number) for number in range(len(self.names))]
        self._weights = np.ones((_RESAMPLES + 1, len(cells)))  # the first row is the sample itself
        for places in members:
            even = np.full(len(places), 1 / len(places))
            self._weights[1:, places] = rng.multinomial(len(places), even, _RESAMPLES)
        self._even = sum((self._cell == n) / len(places) for n, places in enumerate(members)) / len(members)

    def fidelity(self, scores: Scores) -> F64:
        """Of each prompt."""
        found: F64 = np.exp(-scores.kl / np.where(self._text, scores.positions, 1))
        return found

    def quality(self, strategy: str, scores: Scores) -> Quality:
        """The record of `strategy`."""
        text = self._text
        relative = _estimate(self._weights @ (self.fidelity(scores) * self._even))
        surprise = self._share(np.where(text, scores.nats - scores.raw_nats, 0), np.where(text, scores.positions, 0))
        return Quality(
            strategy=strategy,
            relative=relative.value,
            relative_ci=(relative.low, relative.high),
            kl=_estimate(self._share(scores.kl, scores.positions)),
            perplexity=_estimate(np.exp(surprise)),
            agreement=_estimate(self._share(scores.agree, scores.positions)),
            exact=[self._exact(number, scores) for number, (task, _) in enumerate(self.names) if task != "text"],
        )

    def _exact(self, number: int, scores: Scores) -> Cell:
        here = self._cell == number
        raw, ours = float(scores.raw_right[here].mean()), float(scores.right[here].mean())
        relative = self._share(scores.right * here, scores.raw_right * here) if raw else None
        return Cell(*self.names[number], raw, ours, None if relative is None else _estimate(relative))

    def _share(self, part: F64, whole: F64) -> F64:
        """Σ part ÷ Σ whole of each resample; a resample without any `whole` counts as the sample itself."""
        parts, wholes = self._weights @ part, self._weights @ whole
        shares: F64 = np.where(wholes > 0, parts, parts[0]) / np.where(wholes > 0, wholes, wholes[0])
        return shares


def _estimate(values: F64) -> Estimate:
    low, high = np.quantile(values[1:], (_LOW, _HIGH))
    return Estimate(float(values[0]), float(low), float(high))
