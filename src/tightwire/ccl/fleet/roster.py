"""Which process has each rank of a job, and on which host; when the job was started anew; the dead of earlier starts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tightwire.ccl.batch import Rows
from tightwire.ccl.digest import RANK, UNKNOWN, Digest
from tightwire.ccl.slots import Bools
from tightwire.ccl.standing import dead

SETTING_UP_S = 30.0  # ranks of one start are started within
_TICKS = os.sysconf("SC_CLK_TCK")
_NOBODY = np.uint64(2**64 - 1)


class Place(NamedTuple):
    """A rank's process, as it was last seen."""

    host: str
    pid: int
    pid_start: int
    alive: bool


class Roster:
    """`places` by rank, of this start of the job."""

    def __init__(self) -> None:
        self.places: dict[int, Place] = {}
        self._living = np.full(0, _NOBODY)  # by rank, when its process started, while it lives
        self._start_s = -math.inf  # of the job, where it was started anew

    @property
    def over(self) -> bool:
        """All ranks are gone."""
        return bool(self.places) and not any(each.alive for each in self.places.values())

    @property
    def processes(self) -> dict[int, tuple[int, int]]:
        """By rank: pid and start."""
        return {rank: (each.pid, each.pid_start) for rank, each in self.places.items()}

    def of_host(self, name: str) -> list[int]:
        """The ranks that live on it."""
        return [rank for rank, each in self.places.items() if each.alive and each.host == name]

    def take(self, told: Sequence[tuple[Digest, float]]) -> tuple[list[Digest], bool]:
        """`told`: digests in the order of time, and how far our clock is ahead of their hosts'. Returns (those of this start,
        without the dead of earlier ones; whether it is another start than before: nothing that was known counts any more)."""
        digests = [digest for digest, _ in told]
        if self._as_known(np.frombuffer(b"".join([each.ranks for each in digests]), RANK)):
            return digests, False
        kept: list[Digest] = []
        restarted = False
        for digest, offset_s in told:
            rows = np.frombuffer(digest.ranks, RANK)
            alive = ~dead(rows["state"])
            if self._began_anew(rows[alive], offset_s):
                restarted = True
                kept.clear()
            earlier = ~alive & self._earlier(rows, alive, digest.at_s, offset_s)
            self._note(digest.host, rows, alive, np.flatnonzero(~earlier).tolist())
            kept.append(digest.without(earlier) if earlier.any() else digest)
        return kept, restarted

    def _as_known(self, rows: Rows) -> bool:
        """All live, and are who they were: so it is nearly always."""
        rank = rows["rank"]
        if not len(rank) or rank.max() >= len(self._living):
            return not len(rank)
        return bool((self._living[rank] == rows["pid_start"]).all()) and not dead(rows["state"]).any()

    def _began_anew(self, living: Rows, offset_s: float) -> bool:
        for rank, start in zip(living["rank"].tolist(), living["pid_start"].tolist(), strict=True):
            if rank in self.places and self.places[rank].pid_start != start:
                self._start_s = start / _TICKS + offset_s
                self.places.clear()
                self._living[:] = _NOBODY
                return True
        return False

    def _earlier(self, rows: Rows, alive: Bools, at_s: float, offset_s: float) -> Bools:
        """[ranks] Whether each, if it is gone, was gone when the ranks that live now were started."""
        started_s = rows["pid_start"] / _TICKS + offset_s
        start_s = max(started_s[alive].min() if alive.any() else -math.inf, self._start_s)
        never = rows["gone_ms"] == UNKNOWN
        found: Bools = np.where(never, started_s < start_s - SETTING_UP_S, at_s - rows["gone_ms"] / 1e3 < start_s)
        return found

    def _note(self, host: str, rows: Rows, alive: Bools, which: Iterable[int]) -> None:
        more = int(rows["rank"].max(initial=0)) + 1 - len(self._living)
        if more > 0:
            self._living = np.append(self._living, np.full(more, _NOBODY))
        for at in which:
            rank, start, lives = int(rows["rank"][at]), int(rows["pid_start"][at]), bool(alive[at])
            self.places[rank] = Place(host, int(rows["pid"][at]), start, lives)
            self._living[rank] = start if lives else _NOBODY
