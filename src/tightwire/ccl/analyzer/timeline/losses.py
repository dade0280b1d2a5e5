"""What each step lost, and to whom; who lost it again and again, and when.

Shares are of a usual step: its length less what it lost to the latest rank. A group's transfer is compared with its own in
the first steps, and with that of groups that do the same.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tightwire.ccl.analyzer.slow.excess import AGAIN, BESIDE, CAP, DOUBT, SLOW
from tightwire.ccl.analyzer.timeline.rounds import Rounds
from tightwire.ccl.sources.timeline.operations import Floats

FEWEST, MOST = 3, 20  # steps looked at together


@dataclass(frozen=True)
class Slow:
    """One rank or group (its index): the mean share of a step lost while it was slow, in steps `first` to `last`."""

    index: int
    share: float
    first: int
    last: int


@dataclass(frozen=True)
class Losses:
    """`end_s` and `length_s` [T]; `step_s` the usual one; `late` [T, K], `drag` [T, K] and `transfer` [T, G] in shares of
    it; `window`: the steps looked at together."""

    end_s: Floats
    length_s: Floats
    step_s: float
    late: Floats
    drag: Floats
    transfer: Floats
    window: int

    def slow(self, shares: Floats) -> list[Slow]:
        """Who of [T, n] lost much of most steps in some window."""
        if len(shares) < self.window:
            return []
        often = _means(shares >= DOUBT / 2, self.window) >= AGAIN
        means = np.where(often, _means(shares, self.window), 0.0)
        most = means.max(axis=0)
        worst = float(most.max(initial=0.0))
        if worst < SLOW:
            return []
        found = []
        for index in np.flatnonzero(most >= max(BESIDE * worst, SLOW / 2)).tolist():
            at = np.flatnonzero(means[:, index] >= SLOW / 2)
            steps = np.flatnonzero(shares[at[0] : at[-1] + self.window, index] >= DOUBT / 2) + at[0]
            found.append(Slow(index, float(most[index]), int(steps[0]), int(steps[-1])))
        return found

    def over_its_own(self) -> Floats:
        """[T, G]: transfers against those of the first steps; nothing where there are not enough."""
        if len(self.transfer) < 2 * self.window:
            return np.zeros_like(self.transfer)
        more: Floats = np.clip(self.transfer - np.median(self.transfer[: self.window], axis=0), 0.0, CAP)
        return more


def losses(rounds: Rounds, groups: int) -> Losses:
    """`groups`: how many there are."""
    _, step = np.unique(rounds.step, return_inverse=True)
    count = int(step.max(initial=-1)) + 1
    late, drag, transfer = (
        np.zeros((count, len(rounds.ranks))),
        np.zeros((count, len(rounds.ranks))),
        np.zeros((count, groups)),
    )
    at = step[rounds.round], rounds.rank
    whole, work = np.zeros_like(late), np.zeros_like(late)
    np.add.at(late, at, rounds.own_s)
    np.add.at(whole, at, rounds.late_s)
    np.add.at(work, at, rounds.alone_s)
    if count:  # ranks that are slow together are not late to each other, but work longer than most
        usual = np.sort(work, axis=1)[:, [(work.shape[1] - 1) // 2]]
        late = np.maximum(late, np.minimum(whole, work - usual))
    np.add.at(drag, at, rounds.drag_s)
    np.add.at(transfer, (step, rounds.group), rounds.transfer_s)
    end_s = np.full(count, -np.inf)
    np.maximum.at(end_s, step, rounds.over_s)
    begun_s = float(rounds.begin_s.min()) if count else 0.0
    length_s = np.diff(end_s, prepend=begun_s)
    quick_s = length_s - np.maximum(late.max(axis=1, initial=0.0), drag.max(axis=1, initial=0.0))
    step_s = max(float(np.median(quick_s)), 0.1 * float(np.median(length_s)), 1e-9) if count else 1.0
    window = int(np.clip(count // 3, FEWEST, MOST))
    late, drag, transfer = (np.clip(lost_s / step_s, 0.0, CAP) for lost_s in (late, drag, transfer))
    return Losses(end_s, length_s, step_s, late, drag, transfer, window)


def over_the_others(rounds: Rounds, transfer: Floats) -> Floats:
    """[T, G]: transfers against the median of the other groups with the same operations, as often."""
    alike: dict[tuple[tuple[int, int, int, int], ...], list[int]] = defaultdict(list)
    members = np.bincount(rounds.round, minlength=len(rounds.group))
    for group in np.unique(rounds.group).tolist():
        mine = rounds.group == group
        calls = np.stack([rounds.op[mine], rounds.size[mine], members[mine]])
        kinds, counts = np.unique(calls, axis=1, return_counts=True)
        alike[tuple((*kind, number) for kind, number in zip(kinds.T.tolist(), counts.tolist(), strict=True))].append(
            group
        )
    found = np.zeros_like(transfer)
    for names in alike.values():
        for group in names if len(names) > 1 else []:
            others = [other for other in names if other != group]
            found[:, group] = np.clip(transfer[:, group] - np.median(transfer[:, others], axis=1), 0.0, CAP)
    return found


def _means(values: npt.NDArray[Any], window: int) -> Floats:
    """[T, n] → [T − window + 1, n]: the mean over each window."""
    total = np.cumsum(np.concatenate([np.zeros((1, values.shape[1])), values]), axis=0)
    means: Floats = (total[window:] - total[:-window]) / window
    return means
