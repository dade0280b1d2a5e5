"""From what a look shows to a compact digest: records become calls, and only what changed lately is told.

What changed is told in `REPEATED` looks, and all in every `REFRESHED`th, from which on a collector that knows nothing can
follow: a lost digest changes nothing but the delay. An operation that has not ended is told again as long as its group's
frame is. A group is described by the host of its first rank.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tightwire.ccl.digest import CALL, FRAME, KIND, RANK, UNKNOWN, Digest
from tightwire.ccl.kinds import kind_codes
from tightwire.ccl.slots import Bools, Ints, Words
from tightwire.ccl.summary import GroupFacts, RankSample, Summary
from tightwire.core.events import RECORD, Kind

REPEATED, REFRESHED = 3, 16
_MIX, _SEQUENCE_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
Rows = npt.NDArray[np.void]
OPEN = np.dtype(
    [
        ("key", "<u8"),
        ("rank", "<i8"),
        ("group", "<u8"),
        ("seq", "<u8"),
        ("entered", "<i8"),
        ("own_us", "<i8"),
        ("kind", KIND),
    ]
)
NONE = np.iinfo(np.int64).min


class Packer:
    """One host's ranks, or (in a simulation) many hosts'. `alone`: nobody else describes its groups."""

    def __init__(self, alone: bool = False) -> None:
        self._alone = alone
        self._open = np.zeros(0, OPEN)
        self._last_ns, self._written, self._started = (np.zeros(0, np.int64) for _ in range(3))
        self._frames, self._owners = np.zeros(0, FRAME), np.zeros(0, np.int64)
        self._age = np.zeros(0, np.int64)
        self._looks, self._renewed = 0, True
        self._told_groups: dict[int, int] = {}  # for how many looks each has been known

    def renew(self) -> None:
        """All is told in the next digest: what was told before may not be known."""
        self._renewed = True

    def digest(self, summary: Summary) -> Digest:
        """Of one host."""
        self._looks += 1
        turn = (self._looks + zlib.crc32(summary.host.encode())) % REFRESHED == 0  # not of all hosts at once
        more = sum(len(each.frames) for each in summary.ranks) != len(self._frames)  # a first operation in some group
        whole, self._renewed = turn or more or self._renewed, False
        samples = sorted(summary.ranks, key=lambda each: each.rank)
        ranks = np.array([_rank(each, summary.at_s) for each in samples], RANK)
        frames = np.array(
            [
                (f.group, f.entered_seq, f.done_count, f.waiting, f.op, min(f.failed, 0xFFFF))
                for each in samples
                for f in each.frames
            ],
            FRAME,
        )
        records = np.frombuffer(b"".join([each.records for each in samples]), RECORD)
        of_each = ranks["rank"].astype(np.int64)
        owners = np.repeat(of_each, [len(each.frames) for each in samples])
        writers = np.repeat(of_each, [len(each.records) // RECORD.itemsize for each in samples])
        at_us = np.full(len(ranks), round(summary.at_s * 1e6), np.int64)
        ranks, frames, calls, kinds = self.pack(
            at_us, np.full(len(ranks), whole), ranks, frames, owners, records, writers
        )
        return Digest(
            summary.host, summary.at_s, ranks.tobytes(), frames.tobytes(), calls.tobytes(), kinds.tobytes(),
            self._groups(summary.groups, {each.rank for each in samples}, whole), summary.unseen, summary.unknown, whole,
        )  # fmt: skip

    def pack(
        self, at_us: Ints, whole: Bools, ranks: Rows, frames: Rows, owners: Ints, records: Rows, writers: Ints
    ) -> tuple[Rows, Rows, Rows, Rows]:
        """(`ranks`, `frames`, calls, kinds) as they are told, of ranks (with `at_us` of their hosts, and whether all of theirs
        is told: `whole`), all their frames with the ranks that they belong to, and new records with the ranks that wrote
        them, in the order of ranks and time."""
        complete = self._note(ranks, writers)
        done, ended, failed = self._match(records, writers, complete)
        all_of = np.zeros(len(self._last_ns), bool)
        all_of[ranks["rank"]] = whole
        told = np.flatnonzero(self._changed(frames, owners) | all_of[owners])
        ranks, frames, owners = ranks.copy(), frames.take(told), owners[told]
        ranks["frames"] = np.bincount(owners, minlength=len(self._last_ns))[ranks["rank"]]
        calls, kinds, by = _calls(done, ended, failed, frames, owners, at_us, ranks)
        ranks["calls"] = np.bincount(by, minlength=len(self._last_ns))[ranks["rank"]]
        return ranks, frames, calls, kinds

    def _groups(self, groups: Sequence[GroupFacts], ranks: set[int], whole: bool) -> list[GroupFacts]:
        """Those that are told now."""
        told = []
        for facts in groups:
            age = self._told_groups[facts.group] = self._told_groups.get(facts.group, -1) + 1
            if (age < REPEATED or whole) and (self._alone or (facts.ranks and facts.ranks[0] in ranks)):
                told.append(facts)
        return told

    def _note(self, ranks: Rows, writers: Ints) -> Bools:
        """By rank: whether no record was lost since its last."""
        world = int(ranks["rank"].max(initial=0)) + 1
        if world > len(self._last_ns):
            more = np.zeros(world - len(self._last_ns), np.int64)
            self._last_ns = np.append(self._last_ns, more + NONE)
            self._written, self._started = np.append(self._written, more), np.append(self._started, more)
        rank, started = ranks["rank"], ranks["pid_start"].astype(np.int64)
        new = self._started[rank] != started
        self._written[rank[new]], self._last_ns[rank[new]] = 0, NONE
        self._started[rank] = started
        if new.any() and len(self._open):
            self._open = self._open[~np.isin(self._open["rank"], rank[new])]
        came = np.bincount(writers, minlength=len(self._last_ns))
        complete = np.zeros(len(self._last_ns), bool)
        complete[rank] = self._written[rank] + came[rank] >= ranks["written"].astype(np.int64)
        self._written[rank] = ranks["written"].astype(np.int64)
        return complete

    def _match(self, records: Rows, writers: Ints, complete: Bools) -> tuple[Rows, Ints, Bools]:
        """(calls that ended or are open, their ends in ns, whether in error); those open stay known."""
        times = records["time_ns"].astype(np.int64)
        before = np.concatenate([[NONE], times[:-1]]) if len(times) else times
        first = np.flatnonzero(np.diff(writers, prepend=-1))
        before[first] = np.where(complete[writers[first]], self._last_ns[writers[first]], NONE)
        last = np.append(first[1:], len(writers))[: len(first)] - 1
        self._last_ns[writers[last]] = times[last]
        keys = _keys(writers, records["group"], records["seq"])
        what = records["kind"]
        enters = np.flatnonzero(what == Kind.ENTERED)
        called, known = records.take(enters), len(self._open)
        calls = np.empty(known + len(enters), OPEN)
        calls[:known], entered = self._open, calls[known:]
        entered["key"], entered["rank"], entered["group"] = keys[enters], writers[enters], called["group"]
        entered["seq"], entered["entered"] = called["seq"], times[enters]
        own_us = times[enters] // 1000 - before[enters] // 1000  # as a collector would know it from the calls before
        own_us[before[enters] == NONE] = NONE
        entered["own_us"] = own_us
        kind = entered["kind"]
        for name, column in (
            ("bytes", "bytes"),
            ("shape", "shape"),
            ("op", "op"),
            ("partner", "peer"),
            ("dtype", "dtype"),
        ):
            kind[name] = called[column]
        ends = np.flatnonzero((what == Kind.DONE) | (what == Kind.FAILED))
        ended, failed = np.full(len(calls), NONE, np.int64), np.zeros(len(calls), bool)
        order = np.argsort(calls["key"], kind="stable")
        if len(calls):
            at = np.searchsorted(calls["key"][order], keys[ends], side="right") - 1
            at = order[np.maximum(at, 0)]
            found = calls["key"][at] == keys[ends]
            ended[at[found]] = times[ends][found]
            failed[at[found]] = what[ends][found] == Kind.FAILED
        self._open = calls.take(np.flatnonzero(ended == NONE))
        return calls, ended, failed

    def _changed(self, frames: Rows, owners: Ints) -> Bools:
        """Which frames have changed lately."""
        same = np.zeros(len(frames), bool)
        if len(frames) == len(self._frames) and (owners == self._owners).all():
            same = (_words(frames) == _words(self._frames)).all(axis=1)  # several times as fast as field by field
            self._age = np.where(same, self._age + 1, 0)
        else:
            self._age = np.zeros(len(frames), np.int64)
        self._frames, self._owners = frames, owners
        lately: Bools = self._age < REPEATED
        return lately


def _words(rows: Rows) -> Words:
    """[N, words] of rows whose size is a multiple of 8 bytes."""
    return np.ascontiguousarray(rows).view(np.uint64).reshape(len(rows), rows.dtype.itemsize // 8)


def _rank(sample: RankSample, at_s: float) -> tuple[object, ...]:
    process = sample.process
    state = "" if process is None else process.state
    starved_s, throttled_s = (0.0, 0.0) if process is None else (process.starved_s, process.throttled_s)
    cpu_s, io_bytes = (0.0, 0) if process is None else (process.cpu_s, process.io_bytes)
    died = UNKNOWN if sample.died is None else sample.died
    return (
        sample.pid_start, sample.written, io_bytes, starved_s, throttled_s, cpu_s, sample.rank, sample.world, sample.pid,
        died, 0, 0 if sample.alive else _gone_ms(sample, at_s), 0, sample.goodbye, state.encode(),
    )  # fmt: skip


def _gone_ms(sample: RankSample, at_s: float) -> int:
    entered_ns = max((frame.entered_ns for frame in sample.frames), default=0)
    return min(max(round((at_s - entered_ns / 1e9) * 1e3), 0), UNKNOWN - 1) if entered_ns else UNKNOWN


def _keys(ranks: Ints, groups: Words, sequences: Words) -> Words:
    """In the order of ranks, as they come: so a search finds near its last place."""
    mixed = (groups * _MIX ^ sequences.astype(np.uint64) * _SEQUENCE_MIX) >> np.uint64(20)
    found: Words = (ranks.astype(np.uint64) << np.uint64(44)) | mixed
    return found


def _calls(
    done: Rows, ended: Ints, failed: Bools, frames: Rows, owners: Ints, at_us: Ints, ranks: Rows
) -> tuple[Rows, Rows, Ints]:
    """(calls, kinds, the calls' ranks [N]) of those whose frame is told, rank by rank."""
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    within = np.arange(len(owners)) - np.repeat(starts, np.diff(np.append(starts, len(owners))))
    names = _keys(owners, frames["group"], np.zeros(len(frames), np.uint64))
    order = np.argsort(names, kind="stable")
    mine = _keys(done["rank"], done["group"], np.zeros(len(done), np.uint64))
    at = np.minimum(np.searchsorted(names[order], mine), max(len(names) - 1, 0))
    told = names[order][at] == mine if len(names) else np.zeros(len(done), bool)
    clock = np.zeros(int(ranks["rank"].max(initial=0)) + 1, np.int64)
    clock[ranks["rank"]] = at_us
    some = np.flatnonzero(told)
    some = some[np.argsort(done["rank"][some], kind="stable")]
    done, ended, failed = done.take(some), ended[some], failed[some]
    frame = within[order[at[some]]] if len(names) else at[some]
    _, firsts, kind = np.unique(kind_codes(done["kind"]), return_index=True, return_inverse=True)
    kinds = done["kind"][firsts]
    calls = np.zeros(len(done), CALL)
    now_us = clock[done["rank"]]
    calls["sequence"], calls["frame"], calls["kind"], calls["failed"] = done["seq"], frame, kind, failed
    calls["entered_us"] = _ago(now_us, done["entered"])
    calls["ended_us"] = np.where(ended == NONE, UNKNOWN, _ago(now_us, ended))
    own_us = np.clip(done["own_us"], 0, UNKNOWN - 1)
    calls["own_us"] = np.where(done["own_us"] == NONE, UNKNOWN, own_us)
    return calls, kinds, done["rank"]


def _ago(now_us: Ints, time_ns: Ints) -> Ints:
    """Microseconds; at most what a call can hold."""
    return np.clip(now_us - time_ns // 1000, 0, UNKNOWN - 1)
