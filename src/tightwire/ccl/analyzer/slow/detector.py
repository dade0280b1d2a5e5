"""From what the ranks did to the incident of a job that became slow, and to its end. Sans-IO: rounds and looks at the
transport in, findings out; duplicated, reordered and lost summaries change nothing but the delay.

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

from tightwire.ccl.analyzer.slow import excess, links, processor
from tightwire.ccl.analyzer.slow.account import Account, Base
from tightwire.ccl.analyzer.slow.clocks import Clocks
from tightwire.ccl.analyzer.slow.excess import DOUBT, SLOW, Excess
from tightwire.ccl.analyzer.slow.links import SlowLinks
from tightwire.ccl.analyzer.slow.looks import Looks
from tightwire.ccl.analyzer.slow.processor import ProcessorTime
from tightwire.ccl.analyzer.slow.timing import Timer, Timing
from tightwire.ccl.collector import Collector
from tightwire.ccl.connections import Connections
from tightwire.ccl.rounds import FAILED
from tightwire.ccl.slots import Floats
from tightwire.ccl.summary import GroupFacts
from tightwire.ccl.verdict import AnomalyClass

RECENT = 16  # batches of rounds kept to say where the time was lost
EARLY_STEPS = 4  # that look slow, before the transport is looked at
SETTLE_STEPS = 6  # looked at, before it is judged
GIVE_UP_STEPS = 16  # looked at without finding a link
STARVED = 0.5  # of the lost time put down to the machine: not the rank's doing
LONG_STEPS = 64  # in doubt, or slow: what is to be seen has been seen
END_STEPS = 12  # without loss: it is over
REFINE_STEPS = 16  # in which a finding may still change


@dataclass(frozen=True)
class Finding:
    """Who makes the job slow. `ranks` are slow in their own work, `links` as the transport shows them (their devices'
    ranks are not in `ranks`); `excess` and `step_s` (usual) tell how much; `where` is the group in which most was lost, with
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
    """One job, as the collector knows it. `take` what is new, `look` when `wants_look`, ask for `news`."""

    _account: Account | None
    _open: Finding | None
    _judged: int
    _opened: int

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._begin()

    def take(self, now_s: float) -> None:
        """What the collector was told since the last time."""
        collector = self._collector
        if collector.restarts != self._restarts:
            self._begin()  # a launcher started the job again
        standing = collector.standing
        if not standing.known.any():
            return
        self._processor.take(standing)
        self._clocks.grow(int(standing.host.max()) + 1)
        lead_s = np.zeros(max(len(standing.host), 1 + int(collector.slots.ranks.max(initial=0))))
        lead_s[: len(standing.host)] = self._clocks.lead_s[standing.host]
        timing = self._timer.take(now_s, lead_s)
        if timing is None:
            return
        self._clocks.take(timing, standing.host)
        self._recent.append(self._lost(timing))
        if self._account is None or self._account.lost_track():
            self._account, self._open, self._judged = Account(), None, 0
        self._account.take(timing, self._timer.waiting(now_s), self._timer.settled_s(now_s))

    @property
    def attentive(self) -> bool:
        """Something may be wrong: what comes now wants to be known soon."""
        return self._doubting and self._judged - max(self._doubted_steps, self._opened) <= LONG_STEPS

    @property
    def next_look_s(self) -> float:
        """How long after the last look, while attentive."""
        return self._looks.soon_s

    def wants_look(self, now_s: float) -> bool:
        """Now is a time to look at the transport."""
        return self._account is not None and self._looks.due(now_s, self.attentive, self._doubting)

    def look(self, now_s: float, connections: Connections) -> None:
        """All connections between ranks, with their counters now."""
        self._looks.take(now_s, connections, self._doubting)

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
        self._doubt(early, full)
        if self._open is not None:
            return self._ended() or self._changed(full)
        held_back = self._held_back(full)
        ranks = held_back or self._to_blame(full)
        slow_links = None if held_back else self._slow_links(full, bool(ranks))
        if not held_back and _is_small(ranks, slow_links, full):
            ranks = ()
        if not ranks and slow_links is None:
            if full.longer < DOUBT and not self._doubting:
                account.follow()
            return None
        if not held_back and self._undecided(early, full, ranks, slow_links):
            return None
        self._open, self._opened = self._finding(ranks, slow_links, full), self._judged
        return self._open

    def _begin(self) -> None:
        self._restarts = self._collector.restarts
        self._timer = Timer(self._collector.rounds)
        self._account = None
        self._clocks = Clocks()
        self._processor = ProcessorTime()
        self._recent: deque[tuple[Floats, Floats]] = deque(maxlen=RECENT)
        self._looks = Looks()
        self._doubting, self._doubted_steps = False, 0
        self._judged = self._opened = 0
        self._open = None

    def _lost(self, timing: Timing) -> tuple[Floats, Floats]:
        """(by slot, by group): lateness, and time of transfer."""
        slots = self._collector.slots
        return (
            np.bincount(timing.slot, timing.late_s, len(slots.ranks)).astype(np.float32),
            np.bincount(timing.group, timing.transfer_s, len(slots.facts)).astype(np.float32),
        )

    def _doubt(self, early: Excess, full: Excess) -> None:
        """The transport is looked at from the first doubt on, and what is seen then is no baseline."""
        doubtful = bool(early.slow_groups) or early.longer > 2 * SLOW or full.transfer.max(initial=0.0) > DOUBT
        doubtful |= full.longer >= DOUBT and self._held_back_shares(full).max(initial=0.0) >= DOUBT / 2
        if doubtful and not self._doubting:
            self._doubting, self._doubted_steps = True, self._judged
            self._looks.begin()
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
        if not self._looks.enough or self._judged - self._doubted_steps < SETTLE_STEPS:
            return None
        return links.find(self._looks.before(self._onset()), self._looks.now())

    def _to_blame(self, full: Excess) -> tuple[int, ...]:
        """The slow ranks, less those whom the machine kept waiting for a processor, more than the others or than before."""
        slow = full.slow_ranks
        if not slow:
            return ()
        account, base = self._learnt()
        starved_s = self._processor.starved_s(list(account.end_s)[-full.steps])
        lost_s = np.maximum(full.own, full.work) * full.steps * base.step_s
        return tuple(rank for rank in slow if starved_s[rank] < STARVED * lost_s[rank])

    def _held_back(self, full: Excess) -> tuple[int, ...]:
        """The ranks that a processor quota held back for a good part of what was lost. Wherever the quota runs out, also
        amid a transfer, everybody waits."""
        account, base = self._learnt()
        lengths = np.array(list(account.length_s)[-full.steps :])
        return processor.slowed(self._held_back_shares(full), full.longer, float(np.mean(lengths >= (1 + DOUBT) * base.step_s)))

    def _held_back_shares(self, full: Excess) -> Floats:
        """[ranks] of a step, on average: how long a quota held it back, and not the others as well."""
        account, base = self._learnt()
        held_s = self._processor.held_back_s(list(account.end_s)[-full.steps])
        shares: Floats = (held_s - np.median(held_s)) / (full.steps * base.step_s)
        return shares

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
        slots, rounds = self._collector.slots, self._collector.rounds
        lost = np.zeros(len(slots.facts))
        for late_s, transfer_s in self._recent:
            if ranks:
                mine = np.flatnonzero(np.isin(slots.ranks[: len(late_s)], ranks))
                np.add.at(lost, slots.group_of[mine], late_s[mine])
            else:
                lost[: len(transfer_s)] += transfer_s
        group = int(lost.argmax())
        column = int(rounds.newest[group].argmax())
        kinds = rounds.cells["kind"][slots.of(group), column] & ~FAILED
        op = int(rounds.kinds.rows["op"][kinds].max())
        return slots.facts[group], op, int(rounds.newest[group, column])

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
        ranks, slow_links = self._to_blame(full), found.links
        if not set(found.ranks) <= set(ranks):
            ranks = found.ranks
        seen = self._slow_links(full, bool(ranks))
        if seen is not None and (slow_links is None or seen.says_more_than(slow_links)):
            slow_links = seen
        if not found.ranks and _is_small(ranks, slow_links, full):
            ranks = ()
        if (ranks, slow_links) == (found.ranks, found.links):
            return None
        self._open = replace(self._finding(ranks, slow_links, full), since_s=found.since_s)
        return self._open


def _is_small(ranks: Sequence[int], slow_links: SlowLinks | None, full: Excess) -> bool:
    """Whether the others wait so little for these ranks, beside links that are slow, that those explain it: who sends or
    receives over them works longer for it, too."""
    if not ranks or slow_links is None:
        return False
    return float(full.own[list(ranks)].max()) < excess.BESIDE * float(full.transfer.max())
