"""What each step lost, and to whom: the lateness that is each rank's own doing, its own work, and each group's transfer.

A step ends where a call site that comes once a step is over (the anchor, found in the first rounds). Only regular call
sites count: what comes once in a while (a checkpoint's barrier, an evaluation) belongs to no step's account. Where summaries
are lost, rounds are known late: steps wait for their ends, and where no round of a group is known in time, its transfer in
that step is not known (NaN), and not zero. Baselines
are the medians of the first steps after warm-up, and follow slowly while nothing is wrong; at once where steps get shorter.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tightwire.ccl.analyzer.slow.sites import CallSites
from tightwire.ccl.analyzer.slow.timing import Timing
from tightwire.ccl.slots import Bools, Floats, Ints, Words

WARM_UP, LEARNT = 4, 12  # steps
KEPT = 64  # steps
FOLLOW = 0.02  # of a step's difference goes into the baseline
FASTER = 0.8  # of the baseline's step, over as many as were learnt: they were learnt in a bad moment
FORGET = 20  # baseline steps without an anchor
LEAST_S = 1.0  # a step, for that purpose


@dataclass(frozen=True)
class Base:
    """Of a quiet step: its length, and by rank (`late_s`, `own_s`) or group (`transfer_s`) what is usual."""

    step_s: float
    late_s: Floats
    own_s: Floats
    transfer_s: Floats


@dataclass(frozen=True)
class _Rounds:
    """What an account needs of some rounds until their step is over: of each its group, site and end; of members who lost
    time or worked, their round, rank, lateness and own time."""

    group: Ints
    site: Words
    over_s: Floats
    transfer_s: Floats
    round: npt.NDArray[np.int32]
    rank: npt.NDArray[np.int32]
    late_s: npt.NDArray[np.float32]
    own_s: npt.NDArray[np.float32]

    @classmethod
    def of(cls, timing: Timing) -> _Rounds:
        some = (timing.late_s > 0) | (timing.own_s > 0)
        return cls(
            timing.group, timing.site, timing.over_s, timing.transfer_s, timing.round[some].astype(np.int32),
            timing.rank[some].astype(np.int32), timing.late_s[some].astype(np.float32), timing.own_s[some].astype(np.float32),
        )  # fmt: skip

    def only(self, keep: Bools) -> _Rounds:
        if keep.all():
            return self
        members, number = keep[self.round], (np.cumsum(keep) - 1).astype(np.int32)
        return _Rounds(
            self.group[keep], self.site[keep], self.over_s[keep], self.transfer_s[keep], number[self.round[members]],
            self.rank[members], self.late_s[members], self.own_s[members],
        )  # fmt: skip


class Account:
    """Ranks and groups are numbered; their numbers are the indexes of all arrays, which hold those of the time of
    learning. `steps` counts those accounted."""

    def __init__(self) -> None:
        self.ranks = self.groups = 0
        self.base: Base | None = None
        self.length_s: deque[float] = deque(maxlen=KEPT)
        self.end_s: deque[float] = deque(maxlen=KEPT)
        self.late_s: deque[Floats] = deque(maxlen=KEPT)
        self.own_s: deque[Floats] = deque(maxlen=KEPT)
        self.transfer_s: deque[Floats] = deque(maxlen=KEPT)
        self.steps = 0
        self._waiting: list[_Rounds] = []  # not accounted yet
        self._newest_s = -np.inf  # end of a round
        self._sites = CallSites()
        self._ends_s: list[float] = []  # of the anchor, not accounted yet

    def take(self, timing: Timing, waiting: Ints, settled_s: float) -> int:
        """How many steps were accounted by this; the groups `waiting` will have more rounds of that time, and other rounds
        than these may be known soon from `settled_s` on."""
        rounds = _Rounds.of(timing)
        self._waiting.append(rounds)
        self._newest_s = max(self._newest_s, float(rounds.over_s.max()))
        fresh = 1
        if self._sites.anchor is None:
            self._sites.count(timing)
            if not self._sites.find(waiting):
                return 0
            self.groups = 1 + max(int(each.group.max()) for each in self._waiting)
            self.ranks = 1 + max(int(each.rank.max(initial=0)) for each in self._waiting)
            fresh = len(self._waiting)
        accounted_s = self.end_s[-1] if self.end_s else -np.inf
        for each in self._waiting[-fresh:]:
            ends = self._sites.is_anchor(each.group, each.site) & (each.over_s > accounted_s)
            self._ends_s += each.over_s[ends].tolist()
        self._waiting[-fresh:] = [self._regular(each) for each in self._waiting[-fresh:]]
        self._ends_s.sort()
        return self._settle(settled_s)

    def follow(self) -> None:
        """Let the baseline follow the newest step a little, or all the way to a job that turns out faster: nothing is wrong."""
        base = self.base
        if base is None:
            return
        if np.median(list(self.length_s)[-LEARNT:]) < FASTER * base.step_s:
            self.base = self._learnt()
            return
        transfer_s = _bounded(self.transfer_s[-1] - base.transfer_s, base.step_s)
        self.base = Base(
            base.step_s + FOLLOW * float(_bounded(np.array(self.length_s[-1] - base.step_s), base.step_s)),
            base.late_s + FOLLOW * _bounded(self.late_s[-1] - base.late_s, base.step_s),
            base.own_s + FOLLOW * _bounded(self.own_s[-1] - base.own_s, base.step_s),
            np.where(np.isnan(base.transfer_s), self.transfer_s[-1], base.transfer_s + FOLLOW * np.nan_to_num(transfer_s)),
        )

    def _settle(self, settled_s: float) -> int:
        """Account the steps whose end is behind by one more: the rounds of all ranks are in by then, but for those that are
        waited for from `settled_s` on."""
        count = min(bisect(self._ends_s, settled_s) - 1, len(self._ends_s) - 2)
        if count < 1:
            return 0
        edges = np.array(self._ends_s[: count + 1])
        late, own = (np.zeros(count * self.ranks) for _ in range(2))
        transfer, heard = (np.zeros(count * self.groups) for _ in range(2))
        for rounds in self._waiting:
            step = np.searchsorted(edges, rounds.over_s) - 1
            inside = (step >= 0) & (step < count)
            at = step[inside] * self.groups + rounds.group[inside]
            transfer += np.bincount(at, rounds.transfer_s[inside], len(transfer))
            heard += np.bincount(at, minlength=len(heard))
            mine = inside[rounds.round] & (rounds.rank < self.ranks)
            at = step[rounds.round[mine]] * self.ranks + rounds.rank[mine]
            late += np.bincount(at, rounds.late_s[mine], len(late))
            own += np.bincount(at, rounds.own_s[mine], len(own))
        later = [each.over_s > edges[-1] for each in self._waiting]
        self._waiting = [each.only(keep) for each, keep in zip(self._waiting, later, strict=True) if keep.any()]
        self._ends_s = self._ends_s[count:]
        transfer[heard == 0] = np.nan
        self.length_s += np.diff(edges).tolist()
        self.end_s += edges[1:].tolist()
        for flat, store in ((late, self.late_s), (own, self.own_s), (transfer, self.transfer_s)):
            store.extend(flat.reshape(count, -1))
        self.steps += count
        if self.base is None and self.steps >= WARM_UP + LEARNT:
            self.base = self._learnt()
        return count

    def _learnt(self) -> Base:
        """The medians of the last steps."""
        newest = slice(-LEARNT, None)
        return Base(
            float(np.median(list(self.length_s)[newest])),
            np.median(list(self.late_s)[newest], axis=0),
            _usual(np.array(list(self.own_s)[newest])),
            _median(np.array(list(self.transfer_s)[newest])),
        )

    def lost_track(self) -> bool:
        """The anchor has not come for long although rounds went on: the job does something else now."""
        if self._sites.anchor is None or len(self._waiting) < FORGET:
            return False
        last_s = self._ends_s[-1] if self._ends_s else -np.inf
        step_s = self.base.step_s if self.base is not None else LEAST_S
        return self._newest_s - last_s > FORGET * max(step_s, LEAST_S)

    def _regular(self, rounds: _Rounds) -> _Rounds:
        """Those that belong to the steps."""
        return rounds.only((rounds.group < self.groups) & self._sites.regular(rounds.group, rounds.site))


def _usual(own_s: Floats) -> Floats:
    """[T, ranks] → [ranks]: the median of the steps in which a rank was heard of: it always works for a while. Of who was
    not heard of at all, what is usual for the others."""
    heard = (own_s > 0).sum(axis=0)
    ordered = np.sort(np.where(own_s > 0, own_s, np.inf), axis=0)
    found: Floats = ordered[np.maximum(heard - 1, 0) // 2, np.arange(own_s.shape[1])]
    found[heard == 0] = np.median(found[heard > 0]) if heard.any() else 0.0
    return found


def _median(values: Floats) -> Floats:
    """[T, n] → [n]: of what is known (not NaN); NaN where nothing is."""
    known = (~np.isnan(values)).sum(axis=0)
    ordered, columns = np.sort(values, axis=0), np.arange(values.shape[1])  # NaN last
    found: Floats = (ordered[np.maximum(known - 1, 0) // 2, columns] + ordered[np.minimum(known // 2, len(values) - 1), columns]) / 2
    return found


def _bounded(difference: Floats, step_s: float) -> Floats:
    return np.clip(difference, -step_s, step_s)
