"""From summaries to the incident of a job that became slow, and to its end. Sans-IO: summaries and looks at the transport
in, findings out; duplicated, reordered and lost summaries change nothing but the delay.

| state | until | then |
|---|---|---|
| learning | the first steps are accounted | quiet |
| quiet | a rank or a group lost time again and again, and for a group a link is found that bounds it | slow |
| slow | none of the guilty lost time any more | quiet |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tightwire.ccl.analyzer.slow import excess, links
from tightwire.ccl.analyzer.slow.account import Account, Base
from tightwire.ccl.analyzer.slow.clocks import Clocks
from tightwire.ccl.analyzer.slow.excess import DOUBT, SLOW, Excess
from tightwire.ccl.analyzer.slow.grid import Grid
from tightwire.ccl.analyzer.slow.links import Flow, Pair, SlowLinks
from tightwire.ccl.analyzer.slow.processor import ProcessorTime
from tightwire.ccl.analyzer.slow.timing import Timer, Timing
from tightwire.ccl.summary import GroupFacts, RankSample, Summary
from tightwire.ccl.transport import Connection
from tightwire.ccl.verdict import AnomalyClass
from tightwire.core.events import RECORD

RECENT = 16  # batches of rounds kept to say where the time was lost
EARLY_STEPS = 4  # that look slow, before the transport is looked at
SETTLE_S, SETTLE_STEPS = 0.8, 6  # looked at, before it is judged
GIVE_UP_STEPS = 16  # looked at without finding a link
LOOK_EVERY_S, LOOK_FIRST_S, LOOK_DOUBTING_S, FIRST_LOOKS = 3.0, 0.4, 0.3, 6
QUIET_LOOKS = 6
HELD_BACK = 0.3  # of the lost time: a quota's doing
STARVED = 0.5  # of the lost time put down to the machine: not the rank's doing
END_STEPS = 12  # without loss: it is over
REFINE_STEPS = 16  # in which a finding may still change


@dataclass(frozen=True)
class Finding:
    """Who makes the job slow. `ranks` are slow in their own work, `links` as the transport shows them (their device's
    rank is not in `ranks`); `excess` and `step_s` (usual) tell how much; `where` is the group in which most was lost, with
    an operation of it and that one's number; `ended_s` once it is over."""

    ranks: tuple[int, ...]
    links: SlowLinks | None
    excess: Excess
    step_s: float
    work_s: dict[int, tuple[float, float]]
    where: tuple[GroupFacts, int, int]
    since_s: float
    ended_s: float | None = None

    @property
    def anomaly(self) -> AnomalyClass:
        if self.links is None:
            return "S1"
        return "S3" if self.ranks else "S2"


class Detector:
    """One job. `take` what the agents say, `look` when `wants_look`, ask for `news`."""

    _account: Account | None
    _open: Finding | None
    _judged: int
    _opened: int

    def __init__(self) -> None:
        self._begin()

    def take(self, summaries: Sequence[Summary]) -> None:
        """What came since the last time, from any number of hosts."""
        samples: list[RankSample] = []
        for summary in summaries:
            self._grid.add(summary.groups)
            for sample in summary.ranks:
                self._hosts.setdefault(
                    sample.rank, self._host_numbers.setdefault(summary.host, len(self._host_numbers))
                )
                samples.append(sample)
        if any(self._started.setdefault(s.rank, s.pid_start) < s.pid_start for s in samples):
            self._begin()  # a launcher started the job again
            self.take(summaries)
            return
        batches: dict[int, list[bytes]] = {}
        whole: dict[int, bool] = {}
        for sample in sorted(samples, key=lambda each: each.written):
            if sample.written <= self._told.get(sample.rank, 0):
                continue  # known already, or overtaken
            seen = self._seen.get(sample.rank, 0) + len(sample.records) // RECORD.itemsize
            whole[sample.rank] = seen >= sample.written and whole.get(sample.rank, True)
            self._told[sample.rank], self._seen[sample.rank] = sample.written, max(seen, sample.written)
            batches.setdefault(sample.rank, []).append(sample.records)
        self._processor.take(summaries)
        self._digest(list(batches), [b"".join(each) for each in batches.values()], list(whole.values()))

    def wants_look(self, now_s: float) -> bool:
        """Now is a time to look at the transport."""
        if self._looks and not self._doubting and len(self._quiet) >= FIRST_LOOKS:
            return now_s - self._looks[-1][0] >= LOOK_EVERY_S
        return self._account is not None and (
            not self._looks or now_s - self._looks[-1][0] >= (LOOK_DOUBTING_S if self._doubting else LOOK_FIRST_S)
        )

    def look(self, now_s: float, connections: list[Connection]) -> None:
        """All connections between ranks, with their counters now."""
        self._looks.append((now_s, connections))
        if not self._doubting:
            self._quiet.append(connections)
            if len(self._quiet) > QUIET_LOOKS:
                del self._quiet[1]  # the first and the newest span the quiet time

    def news(self, now_s: float) -> Finding | None:
        """A finding that is new, has changed, or has ended."""
        account = self._account
        if account is None or account.base is None or account.steps == self._judged:
            return None
        self._judged = account.steps
        steps = excess.window(account.base.step_s)
        early, full = excess.measure(account, EARLY_STEPS), excess.measure(account, steps)
        if early is None or full is None:
            return None
        self._doubt(early, full, now_s)
        if self._open is not None:
            return self._ended() or self._changed(full)
        held_back = self._held_back(full)
        ranks = held_back or self._to_blame(full)
        slow_links = None if held_back else self._slow_links(full, bool(ranks))
        if not ranks and slow_links is None:
            if full.longer < DOUBT and not self._doubting:
                account.follow()
            return None
        if not held_back and self._undecided(early, full, ranks, slow_links):
            return None
        self._open, self._opened = self._finding(ranks, slow_links, full), self._judged
        return self._open

    def _begin(self) -> None:
        self._grid = Grid()
        self._timer = Timer(self._grid)
        self._account = None
        self._clocks = Clocks(np.zeros(0, np.int64))
        self._hosts: dict[int, int] = {}
        self._host_numbers: dict[str, int] = {}
        self._started: dict[int, int] = {}
        self._told: dict[int, int] = {}  # of each rank, how many records it has written
        self._seen: dict[int, int] = {}  # and how many came, or will never come
        self._processor = ProcessorTime()
        self._recent: deque[Timing] = deque(maxlen=RECENT)
        self._looks: deque[tuple[float, list[Connection]]] = deque(maxlen=64)
        self._quiet: list[list[Connection]] = []
        self._doubting, self._doubted_steps, self._doubted_s = False, 0, 0.0
        self._judged = self._opened = 0
        self._open = None

    def _digest(self, ranks: list[int], batches: list[bytes], whole: list[bool]) -> None:
        keys = self._grid.take(ranks, batches, whole)
        count = max(self._hosts, default=-1) + 1
        if len(self._clocks.host_of) != count:
            self._clocks = Clocks(np.array([self._hosts.get(rank, 0) for rank in range(count)], np.int64))
        lead_s = self._clocks.lead_s[self._clocks.host_of]
        offset_s = lead_s[np.minimum(self._grid.ranks, max(count - 1, 0))] if count else np.zeros(0)
        timing = self._timer.take(keys, offset_s)
        if timing is None:
            return
        self._clocks.take(timing)
        self._recent.append(timing)
        if self._account is None or self._account.lost_track():
            self._account, self._open, self._judged = Account(), None, 0
        self._account.take(timing)

    def _doubt(self, early: Excess, full: Excess, now_s: float) -> None:
        """The transport is looked at from the first doubt on, and what is seen then is no baseline."""
        doubtful = bool(early.slow_groups) or early.longer > 2 * SLOW or full.transfer.max(initial=0.0) > DOUBT
        if doubtful and not self._doubting:
            self._doubting, self._doubted_steps, self._doubted_s = True, self._judged, now_s
            self._looks.clear()
        elif not doubtful and self._open is None and self._judged - self._doubted_steps > GIVE_UP_STEPS:
            self._doubting = False

    def _undecided(self, early: Excess, full: Excess, ranks: tuple[int, ...], slow_links: SlowLinks | None) -> bool:
        """There is more than what is explained so far: wait a little for what the transport or the accounts say."""
        if self._judged - self._doubted_steps >= GIVE_UP_STEPS:
            return False
        if slow_links is None:
            return bool(max(early.transfer.max(initial=0.0), full.transfer.max(initial=0.0)) >= DOUBT)
        return bool(not ranks and max(early.own.max(initial=0.0), full.own.max(initial=0.0)) >= DOUBT / 2)

    def _slow_links(self, full: Excess, some: bool) -> SlowLinks | None:
        """Links that bound the groups which are slow."""
        if float(full.transfer.max(initial=0.0)) < (DOUBT if some else SLOW):
            return None
        if (
            len(self._looks) < 3
            or self._judged - self._doubted_steps < SETTLE_STEPS
            or self._looks[-1][0] - self._looks[0][0] < SETTLE_S
        ):
            return None
        now = links.flows([connections for _, connections in self._looks])
        return links.find(self._flows_before(), now)

    def _flows_before(self) -> dict[Pair, Flow]:
        quiet = self._quiet[:-1] if len(self._quiet) > 2 else self._quiet  # the newest may be of the time it began
        return links.flows(quiet) if len(quiet) > 1 else {}

    def _to_blame(self, full: Excess) -> tuple[int, ...]:
        """The slow ranks, less those whom the machine kept waiting for a processor more than the others."""
        slow = full.slow_ranks
        if not slow:
            return ()
        account, base = self._learnt()
        starved = self._processor.starved_s(list(account.end_s)[-full.steps])
        usual = float(np.median(list(starved.values()))) if starved else 0.0
        lost_s = full.own * full.steps * base.step_s
        return tuple(rank for rank in slow if starved.get(rank, 0.0) - usual < STARVED * lost_s[rank])

    def _held_back(self, full: Excess) -> tuple[int, ...]:
        """The ranks that a processor quota held back for a good part of what was lost. Wherever the quota runs out, also
        amid a transfer, everybody waits."""
        if full.longer < SLOW:
            return ()
        account, base = self._learnt()
        held_s = self._processor.held_back_s(list(account.end_s)[-full.steps])
        lost_s = full.longer * full.steps * base.step_s
        usual = float(np.median(list(held_s.values()))) if held_s else 0.0
        return tuple(sorted(rank for rank, each in held_s.items() if each - usual >= HELD_BACK * lost_s))

    def _learnt(self) -> tuple[Account, Base]:
        assert self._account is not None, "asked only when there is a baseline"
        assert self._account.base is not None, "asked only when there is a baseline"
        return self._account, self._account.base

    def _finding(self, ranks: tuple[int, ...], slow_links: SlowLinks | None, full: Excess) -> Finding:
        account, base = self._learnt()
        recent = list(account.own_s)[-full.steps // 2 :]
        work_s = {rank: (float(base.own_s[rank]), float(np.mean([row[rank] for row in recent]))) for rank in ranks}
        since_s = self._onset()
        return Finding(
            ranks, slow_links, full, base.step_s, work_s, self._where(ranks, slow_links), since_s
        )  # fmt: skip

    def _onset(self) -> float:
        """The end of the last step that was as usual."""
        account, base = self._learnt()
        lengths, ends = list(account.length_s), list(account.end_s)
        for back in range(1, len(lengths)):
            if lengths[-back] < (1 + DOUBT) * base.step_s:
                return ends[-back]
        return ends[0]

    def _where(self, ranks: tuple[int, ...], slow_links: SlowLinks | None) -> tuple[GroupFacts, int, int]:
        """The group in which most time was lost lately, with the newest of its operations there."""
        lost = np.zeros(len(self._grid.facts))
        for timing in self._recent:
            if ranks:
                mine = np.isin(timing.rank, ranks)
                np.add.at(lost, timing.group[timing.round[mine]], timing.late_s[mine])
            else:
                np.add.at(lost, timing.group, timing.transfer_s)
        group = int(lost.argmax())
        grid = self._grid
        columns = grid.sequence[grid.base[group]]
        column = int(columns.argmax())
        return grid.facts[group], int(grid.op[grid.base[group], column]), int(columns[column])

    def _ended(self) -> Finding | None:
        (account, _), found = self._learnt(), self._open
        assert found is not None, "asked only while there is an incident"
        last = excess.measure(account, END_STEPS)
        if last is None or last.longer >= DOUBT:
            return None
        self._open, self._doubting = None, False
        return replace(found, ended_s=list(account.end_s)[-END_STEPS])

    def _changed(self, full: Excess) -> Finding | None:
        """More is known now: a link beside the rank, a rank beside the link, or a device where there was a link."""
        found = self._open
        assert found is not None, "asked only while there is an incident"
        if self._judged - self._opened > REFINE_STEPS:
            return None
        ranks, slow_links = found.ranks or self._to_blame(full), found.links
        if slow_links is None or slow_links.device is None:
            seen = self._slow_links(full, bool(ranks))
            if seen is not None and (slow_links is None or seen.device in slow_links.ends):
                slow_links = seen
        if (ranks, slow_links) == (found.ranks, found.links):
            return None
        self._open = replace(self._finding(ranks, slow_links, full), since_s=found.since_s)
        return self._open
