"""How each rank stands, in columns by rank: its newest sample, when it last made progress, since when it is stopped or gone.

Times are of the collector's clock as far as hosts' clocks agree; NaN: it never happened.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tightwire.ccl.batch import Batch, Rows
from tightwire.ccl.digest import RANK
from tightwire.ccl.slots import Bools, Floats, Ints, put

GAPS_KEPT = 200
SET_UP_EVENTS = 16  # a pause before these is import, connection and compilation: no rhythm of the job
IO_BYTES = 2**20  # that much read or written is a sign of life: a checkpoint, a data set
STARVED_SHARE = 1 / 3  # of a silence, at most, is put down to the machine
ENOUGH_S, ENOUGH_GAPS = 2.0, 1.5  # processor time, or so many longest pauses: who had that was not short of it
ERROR = 2  # a goodbye
_TIMES = (
    ("seen_s", np.nan), ("progress_s", 0.0), ("stopped_since_s", np.nan), ("left_since_s", np.nan),
    ("starved_before_s", 0.0), ("used_before_s", 0.0), ("io_s", 0.0), ("io_before_bytes", 0.0),
)  # fmt: skip


class Standing:
    """`rows` are the newest of `RANK`, by rank; `known` says of which ranks there is one, `host` on which it is."""

    seen_s: Floats
    progress_s: Floats
    stopped_since_s: Floats
    left_since_s: Floats
    starved_before_s: Floats
    used_before_s: Floats
    io_s: Floats
    io_before_bytes: Floats

    def __init__(self) -> None:
        self.rows: Rows = np.zeros(0, RANK)
        self.known: Bools = np.zeros(0, bool)
        self.host: Ints = np.zeros(0, np.int64)
        for name, _ in _TIMES:
            setattr(self, name, np.zeros(0))
        self._gaps_s = np.zeros((0, GAPS_KEPT), np.float32)
        self._gaps = np.zeros(0, np.int64)

    def take(self, batch: Batch, hosts: Ints) -> tuple[Ints, Bools]:
        """`hosts` of the batch's ranks. Returns (its rows that are newer than what was known, whether one of these is of
        a new process in an old rank's place)."""
        ranks = batch.ranks["rank"].astype(np.int64)
        self._grow(int(ranks.max(initial=-1)) + 1)
        restarted = self.known[ranks] & (self.rows["pid_start"][ranks] != batch.ranks["pid_start"])
        new = ~self.known[ranks] | restarted
        with np.errstate(invalid="ignore"):
            use = np.flatnonzero(new | (batch.at_s > self.seen_s[ranks]))
        rank, at_s, rows, new = ranks[use], batch.at_s[use], batch.ranks.take(use), new[use]
        moved = new | (rows["written"] != self.rows["written"][rank])
        was_warming_up = new | (self.rows["written"][rank] < SET_UP_EVENTS)
        self._begin(rank[new], at_s[new])
        put(self.rows, rank, rows)
        self.known[rank], self.seen_s[rank], self.host[rank] = True, at_s, hosts[use]
        self._note_gaps(rank[moved & ~was_warming_up], at_s[moved & ~was_warming_up])
        self.progress_s[rank[moved]] = at_s[moved]
        running = moved & (rows["state"] != b"")
        for before_s, now in ((self.starved_before_s, "starved_s"), (self.used_before_s, "cpu_s")):
            before_s[rank[running]] = rows[now][running]
        done = rows["io_bytes"].astype(np.float64)
        read = np.abs(done - self.io_before_bytes[rank]) >= IO_BYTES
        self.io_s[rank[read]], self.io_before_bytes[rank[read]] = at_s[read], done[read]
        stopped = (rows["state"] == b"T") | (rows["state"] == b"t")
        since_s = self.stopped_since_s[rank]
        self.stopped_since_s[rank] = np.where(stopped, np.where(np.isnan(since_s), at_s, since_s), np.nan)
        gone = np.isnan(self.left_since_s[rank]) & (dead(rows["state"]) | (rows["goodbye"] == ERROR))
        self.left_since_s[rank[gone]] = at_s[gone]
        return use, restarted[use]

    def silence_s(self, now_s: float) -> Floats:
        """How long each made no progress, less the time in which it was short of a processor."""
        return self._own_s(now_s - self.progress_s, slice(None))

    @property
    def warming_up(self) -> bool:
        return bool((self.rows["written"][self.known] < SET_UP_EVENTS).any())

    @property
    def longest_gap_s(self) -> float:
        return float(self._gaps_s.max(initial=0.0))

    @property
    def pids(self) -> dict[int, int]:
        """By rank."""
        rows = self.rows[self.known]
        return dict(zip(rows["rank"].tolist(), rows["pid"].tolist(), strict=True))

    @property
    def dead(self) -> Bools:
        found: Bools = self.known & dead(self.rows["state"])
        return found

    @property
    def stopped(self) -> Bools:
        found: Bools = self.known & ~np.isnan(self.stopped_since_s)
        return found

    def _begin(self, rank: Ints, at_s: Floats) -> None:
        for name, value in _TIMES:
            getattr(self, name)[rank] = value
        self.progress_s[rank] = at_s
        self._gaps_s[rank], self._gaps[rank] = 0.0, 0

    def _note_gaps(self, rank: Ints, at_s: Floats) -> None:
        gap_s = self._own_s(at_s - self.progress_s[rank], rank)
        self._gaps_s[rank, self._gaps[rank] % GAPS_KEPT] = gap_s
        self._gaps[rank] += 1

    def _own_s(self, elapsed_s: Floats, rank: Ints | slice) -> Floats:
        """Of `elapsed_s` since these ranks' progress, what is not put down to the machine. Time in which the main thread was
        ready to run and waited is, for the share that it lacks of enough processor time for any pause of this job."""
        rows = self.rows[rank]
        starved_s = np.clip(rows["starved_s"] - self.starved_before_s[rank], 0.0, elapsed_s)
        starved_s[rows["state"] == b""] = 0.0
        used_s = rows["cpu_s"] - self.used_before_s[rank]  # by all threads; the main one had no more than the rest
        enough_s = max(ENOUGH_S, ENOUGH_GAPS * self.longest_gap_s)
        lacking = np.clip(1 - np.minimum(used_s, elapsed_s - starved_s) / enough_s, 0.0, 1.0)
        own_s: Floats = elapsed_s - np.minimum(lacking * starved_s, STARVED_SHARE * elapsed_s)
        return own_s

    def _grow(self, world: int) -> None:
        more = world - len(self.rows)
        if more <= 0:
            return
        self.rows = np.concatenate([self.rows, np.zeros(more, RANK)])
        self.known = np.concatenate([self.known, np.zeros(more, bool)])
        self.host, self._gaps = (np.concatenate([each, np.zeros(more, np.int64)]) for each in (self.host, self._gaps))
        self._gaps_s = np.concatenate([self._gaps_s, np.zeros((more, GAPS_KEPT), np.float32)])
        for name, value in _TIMES:
            setattr(self, name, np.concatenate([getattr(self, name), np.full(more, value)]))


def dead(state: npt.NDArray[np.bytes_]) -> Bools:
    """Of the kernel's letters."""
    found: Bools = (state == b"") | (state == b"Z") | (state == b"X")
    return found
