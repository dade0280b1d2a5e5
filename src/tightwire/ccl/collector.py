"""Merges the agents' digests into one view of the job. Sans-IO: digests in, columns and views out; duplicates,
reordering and a lost agent change nothing but the delay."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tightwire.ccl.batch import Batch, Rows, batches
from tightwire.ccl.digest import FRAME, UNKNOWN, Digest
from tightwire.ccl.probe.process import ProcessState
from tightwire.ccl.probe.ring import GroupFrame
from tightwire.ccl.rounds import Rounds
from tightwire.ccl.slots import Bools, Ints, Slots, put
from tightwire.ccl.standing import Standing
from tightwire.ccl.summary import GroupFacts, RankSample


@dataclass(frozen=True)
class RankView:
    """One rank, as far as it is known: its newest sample (without records), and its history."""

    sample: RankSample
    seen_s: float
    progress_s: float
    stopped_since_s: float | None
    left_since_s: float | None
    io_s: float

    def outstanding(self) -> list[tuple[int, int, int, bool]]:
        """(group, oldest sequence number that did not complete, operation code, whether it is known to be in the `wait`
        of an operation of that group) of each group in which something did not complete."""
        frames = self.sample.frames
        return [(f.group, f.done_count + 1, f.op, f.waiting > 0) for f in frames if f.entered_seq > f.done_count]

    def entered(self, group: int) -> int:
        return next((f.entered_seq for f in self.sample.frames if f.group == group), 0)


class Collector:
    """`standing` of the ranks, `frames` of the slots (rows of `FRAME`) and `rounds`: the job as known so far. `ranks` and
    `groups` are the same as objects, for what looks at few of them; `restarts` counts how often the job began anew.
    Of ranks that are `unknown` (why, by rank) the frames are those last seen, without what they waited in: whether they
    still do is not known. `undescribed`, by rank: it is in an operation of a group that nobody has described yet, and so has
    no slot there."""

    def __init__(self) -> None:
        self.slots = Slots()
        self.standing = Standing()
        self.rounds = Rounds(self.slots)
        self._told = self.frames = np.zeros(0, FRAME)
        self.ranks: Mapping[int, RankView] = _Ranks(self)
        self.groups: dict[int, GroupFacts] = {}
        self.unseen: dict[str, None] = {}  # in the order in which it was told
        self.unknown: dict[int, str] = {}
        self.undescribed = np.zeros(0, bool)
        self.restarts = 0
        self._hosts: dict[str, int] = {}

    def take(self, digests: Sequence[Digest]) -> None:
        """Older digests than the newest known of a rank are ignored."""
        for batch in batches(digests):
            self._take(batch)
        self.frames = self._settled() if self.unknown else self._told

    def completed(self, ranks: Collection[int]) -> int:
        """How many operations these ranks were seen to complete."""
        mine = self._told[np.isin(self.slots.ranks, list(ranks))]
        return int((mine["done"].astype(np.int64) - mine["failed"]).sum())

    def _take(self, batch: Batch) -> None:
        self._note_groups(batch)
        hosts = np.array([self._hosts.setdefault(each.host, len(self._hosts)) for each in batch.digests], np.int64)
        fresh, restarted = self.standing.take(batch, hosts[batch.host])
        if restarted.any():
            self.rounds.forget()
            self.restarts += 1
            again = batch.ranks["rank"][fresh[restarted]]
            self._told[np.isin(self.slots.ranks, again)] = np.zeros((), FRAME)
        slots, known = self.slots.find(batch.frames["group"], batch.ranks["rank"][batch.rank_of].astype(np.int64))
        self.rounds.take(batch, slots, known)
        news = np.zeros(len(batch.ranks), bool)
        news[fresh] = True
        use = known & news[batch.rank_of]
        use = np.flatnonzero(use)
        put(self._told, slots[use], batch.frames.take(use))
        self._note_undescribed(batch, fresh, ~known)
        self._note_unknown(batch, fresh)

    def _note_undescribed(self, batch: Batch, fresh: Ints, homeless: Bools) -> None:
        if len(self.undescribed) < len(self.standing.known):
            self.undescribed = np.append(
                self.undescribed, np.zeros(len(self.standing.known) - len(self.undescribed), bool)
            )
        self.undescribed[batch.ranks["rank"][fresh]] = False
        if homeless.any():
            inside = homeless & (batch.frames["entered"] > batch.frames["done"])
            self.undescribed[batch.ranks["rank"][np.intersect1d(fresh, batch.rank_of[inside])]] = True

    def _note_unknown(self, batch: Batch, fresh: Ints) -> None:
        """Who is told of is known again."""
        for rank in self.unknown.keys() & set(batch.ranks["rank"][fresh].tolist() if self.unknown else ()):
            del self.unknown[rank]
        for each in batch.digests:
            if each.unknown:
                self.unknown |= each.unknown

    def _settled(self) -> Rows:
        frames = self._told.copy()
        mine = np.isin(self.slots.ranks, list(self.unknown))
        frames["done"][mine], frames["waiting"][mine] = frames["entered"][mine], 0
        return frames

    def _note_groups(self, batch: Batch) -> None:
        fresh = [facts for each in batch.digests for facts in each.groups if facts.group not in self.groups]
        self.groups |= {facts.group: facts for facts in fresh}
        if self.slots.add(fresh):
            more = len(self.slots.ranks) - len(self._told)
            self._told = np.concatenate([self._told, np.zeros(more, FRAME)])
            self.rounds.grow()
        self.unseen.update(dict.fromkeys(text for each in batch.digests for text in each.unseen))


class _Ranks(Mapping[int, RankView]):
    """Views of the ranks that are known, made when asked for."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def __getitem__(self, rank: int) -> RankView:
        standing = self._collector.standing
        if not (0 <= rank < len(standing.known) and standing.known[rank]):
            raise KeyError(rank)
        return RankView(
            self._sample(rank), float(standing.seen_s[rank]), float(standing.progress_s[rank]),
            _known(standing.stopped_since_s[rank]), _known(standing.left_since_s[rank]), float(standing.io_s[rank]),
        )  # fmt: skip

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self._collector.standing.known).tolist())

    def __len__(self) -> int:
        return int(self._collector.standing.known.sum())

    def _sample(self, rank: int) -> RankSample:
        collector = self._collector
        row = collector.standing.rows[rank]
        frames = collector.frames[np.flatnonzero(collector.slots.ranks == rank)]
        told = [
            GroupFrame(
                int(f["group"]), int(f["entered"]), 0, int(f["done"]), int(f["op"]), int(f["failed"]), int(f["waiting"])
            )
            for f in frames
            if f["group"]
        ]
        state = row["state"].decode()
        process = ProcessState(
            state, float(row["cpu_s"]), float(row["starved_s"]), int(row["io_bytes"]), float(row["throttled_s"])
        )
        died = int(row["died"])
        return RankSample(
            rank, int(row["world"]), int(row["pid"]), int(row["pid_start"]), int(row["goodbye"]), int(row["written"]), told,
            process if state else None, None if died == UNKNOWN else died,
        )  # fmt: skip


def _known(at_s: float) -> float | None:
    return None if np.isnan(at_s) else float(at_s)
