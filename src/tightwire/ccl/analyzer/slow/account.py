"""What each step lost, and to whom: the lateness that is each rank's own doing, its own work, and each group's transfer.

A step ends where a call site that comes once a step is over (the anchor, found in the first rounds). Only regular call
sites count: what comes once in a while (a checkpoint's barrier, an evaluation) belongs to no step's account. Baselines
are the medians of the first steps after warm-up, and follow slowly while nothing is wrong.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from tightwire.ccl.analyzer.slow.grid import Floats
from tightwire.ccl.analyzer.slow.timing import Timing

WARM_UP, LEARNT = 4, 12  # steps
COVER = 0.9  # of all bytes move at call sites that come at least once a step
SHARED = (4, 3, 2)  # times a step, for a call site that others share a step with
LEAST_S = 1.0  # of rounds, before an anchor is chosen
REGULAR = 0.5  # a site that comes in fewer steps than this share is not part of the step
KEPT = 64  # steps
FOLLOW = 0.02  # of a step's difference goes into the baseline
FORGET = 20  # baseline steps without an anchor
_SITE_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Base:
    """Of a quiet step: its length, and by rank (`late_s`, `own_s`) or group (`transfer_s`) what is usual."""

    step_s: float
    late_s: Floats
    own_s: Floats
    transfer_s: Floats


@dataclass
class _Site:
    count: int = 0
    bytes: float = 0.0
    last_s: float = -np.inf


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
        self._waiting: list[Timing] = []  # not accounted yet
        self._sites: dict[tuple[int, int], _Site] = {}
        self._first_s: float | None = None
        self._anchor: tuple[int, int] | None = None
        self._regular: np.ndarray[tuple[int], np.dtype[np.uint64]] = np.zeros(0, np.uint64)
        self._ends_s: list[float] = []  # of the anchor, not accounted yet

    def take(self, timing: Timing) -> int:
        """How many steps were accounted by this."""
        self._waiting.append(timing)
        if self._anchor is None:
            self._count(timing)
            if not self._find_anchor():
                return 0
            timings = self._waiting
        else:
            timings = [timing]
        group, site = self._anchor or (0, 0)
        for each in timings:
            self._ends_s += each.over_s[(each.group == group) & (each.site == np.uint64(site))].tolist()
        self._ends_s.sort()
        return self._settle()

    def follow(self) -> None:
        """Let the baseline follow the newest step a little: nothing is wrong with it."""
        base = self.base
        if base is None:
            return
        self.base = Base(
            base.step_s + FOLLOW * float(_bounded(np.array(self.length_s[-1] - base.step_s), base.step_s)),
            base.late_s + FOLLOW * _bounded(self.late_s[-1] - base.late_s, base.step_s),
            base.own_s + FOLLOW * _bounded(self.own_s[-1] - base.own_s, base.step_s),
            base.transfer_s + FOLLOW * _bounded(self.transfer_s[-1] - base.transfer_s, base.step_s),
        )

    def _count(self, timing: Timing) -> None:
        if self._first_s is None:
            self._first_s = float(timing.over_s.min())
        columns = (timing.group, timing.site, timing.bytes, timing.over_s)
        for group, site, size, over_s in zip(*(column.tolist() for column in columns), strict=True):
            found = self._sites.setdefault((group, site), _Site())
            found.count, found.bytes, found.last_s = found.count + 1, found.bytes + size, max(found.last_s, over_s)

    def _find_anchor(self) -> bool:
        """The rarest of the call sites that move nearly all bytes, of those that still come."""
        first_s = self._first_s or 0.0
        now_s = max(site.last_s for site in self._sites.values())
        alive = {key: site for key, site in self._sites.items() if 2 * site.last_s >= first_s + now_s}
        if now_s - first_s < LEAST_S:
            return False
        total, covered = sum(site.bytes for site in alive.values()), 0.0
        rarest: tuple[int, int] | None = None
        for key, site in sorted(alive.items(), key=lambda item: -item[1].bytes):
            if rarest is None or site.count < alive[rarest].count:
                rarest = key
            covered += site.bytes
            if covered >= COVER * total:
                break
        if rarest is None:
            return False
        for times in SHARED:  # what moves the bytes may come several times a step, forward and backward
            shares = [key for key, site in alive.items() if abs(times * site.count - alive[rarest].count) <= times]
            if shares and alive[rarest].count >= WARM_UP:
                rarest = shares[0]
                break
        if alive[rarest].count < WARM_UP + LEARNT + 2:
            return False
        least = REGULAR * alive[rarest].count
        self._regular = np.array([_code(*key) for key, site in alive.items() if site.count >= least], np.uint64)
        self._anchor = rarest
        self.groups = 1 + max(int(timing.group.max()) for timing in self._waiting)
        self.ranks = 1 + max(int(timing.rank.max()) for timing in self._waiting)
        self._sites.clear()
        return True

    def _settle(self) -> int:
        """Account the steps whose end is behind by one more: the rounds of all ranks are in by then."""
        count = len(self._ends_s) - 2
        if count < 1:
            return 0
        edges = np.array(self._ends_s[: count + 1])
        late, own = np.zeros((count, self.ranks)), np.zeros((count, self.ranks))
        transfer = np.zeros((count, self.groups))
        kept = []
        for timing in self._waiting:
            step = np.searchsorted(edges, timing.over_s) - 1
            known = (timing.group < self.groups) & np.isin(_codes(timing), self._regular)
            inside = (step >= 0) & (step < count) & known
            np.add.at(transfer, (step[inside], timing.group[inside]), timing.transfer_s[inside])
            mine = inside[timing.round] & (timing.rank < self.ranks)
            at = step[timing.round[mine]], timing.rank[mine]
            np.add.at(late, at, timing.late_s[mine])
            np.add.at(own, at, timing.own_s[mine])
            if (step >= count).any():
                kept.append(timing)
        self._waiting = [_after(timing, edges[-1]) for timing in kept]
        self._ends_s = self._ends_s[count:]
        self.length_s += np.diff(edges).tolist()
        self.end_s += edges[1:].tolist()
        for rows, store in ((late, self.late_s), (own, self.own_s), (transfer, self.transfer_s)):
            store.extend(rows)
        self.steps += count
        if self.base is None and self.steps >= WARM_UP + LEARNT:
            learnt = slice(-LEARNT, None)
            self.base = Base(
                float(np.median(list(self.length_s)[learnt])),
                *(np.median(list(store)[learnt], axis=0) for store in (self.late_s, self.own_s, self.transfer_s)),
            )
        return count

    def lost_track(self) -> bool:
        """The anchor has not come for long although rounds went on: the job does something else now."""
        if self._anchor is None or len(self._waiting) < FORGET:
            return False
        last_s = self._ends_s[-1] if self._ends_s else -np.inf
        step_s = self.base.step_s if self.base is not None else LEAST_S
        return float(self._waiting[-1].over_s.max()) - last_s > FORGET * max(step_s, LEAST_S)


def _bounded(difference: Floats, step_s: float) -> Floats:
    return np.clip(difference, -step_s, step_s)


def _after(timing: Timing, edge_s: float) -> Timing:
    """The rounds of `timing` that were over after `edge_s`."""
    keep = timing.over_s > edge_s
    if keep.all():
        return timing
    members = keep[timing.round]
    number = np.cumsum(keep) - 1
    per_round = {
        name: getattr(timing, name)[keep]
        for name in ("group", "sequence", "site", "begin_s", "over_s", "transfer_s", "bytes", "together")
    }
    per_member = {
        name: getattr(timing, name)[members] for name in ("slot", "rank", "late_s", "own_s", "stay_s", "left_s")
    }
    return Timing(**per_round, **per_member, round=number[timing.round[members]])


def _code(group: int, site: int) -> np.uint64:
    return np.uint64((group * int(_SITE_MIX) + site) & 0xFFFFFFFFFFFFFFFF)


def _codes(timing: Timing) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    codes: np.ndarray[tuple[int], np.dtype[np.uint64]] = timing.group.astype(np.uint64) * _SITE_MIX + timing.site
    return codes
