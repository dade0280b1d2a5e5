"""H1 before there is any group: some ranks wait in `init_process_group`, and others never get there.

The probe notes the rendezvous like an operation of a group of all ranks. What delays a rank there (imports, downloads, a
data set) is nobody's fault for long: the patience is longer than later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tightwire.ccl.collector import Collector, RankView
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.probe.ring import Goodbye
from tightwire.ccl.verdict import Verdict
from tightwire.core.events import RENDEZVOUS

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Missing:
    """`elsewhere` are seen and did not enter; of the `unseen` nothing is known on the hosts that are watched."""

    elsewhere: tuple[int, ...]
    unseen: tuple[int, ...]
    waiting: tuple[int, ...]
    since_s: float


def find(collector: Collector, now_s: float) -> Missing | None:
    """None while all come, or while it is too early to say that one does not."""
    ranks, slots = collector.ranks, collector.slots
    for group in slots.named(RENDEZVOUS):
        facts = slots.facts[group]
        counts = collector.frames["entered"][slots.of(group)]
        number = int(counts.max())
        if (counts == number).all():
            continue
        entered = dict(zip(facts.ranks, counts.tolist(), strict=True))
        inside = [rank for rank in facts.ranks if rank in ranks and _inside(ranks[rank], facts.group, number)]
        late = [rank for rank in facts.ranks if entered[rank] < number]
        if not inside or not late or now_s - max(ranks[rank].progress_s for rank in inside) < PATIENCE_S:
            continue
        seen = [rank for rank in late if rank in ranks]
        if any(_busy_or_gone(ranks[rank], now_s) for rank in seen):
            continue
        unseen = tuple(rank for rank in late if rank not in ranks)
        return Missing(tuple(seen), unseen, tuple(inside), min(ranks[rank].progress_s for rank in inside))
    return None


def verdict(found: Missing, evidence: Mapping[int, Evidence], now_s: float) -> Verdict:
    """At low confidence where a rank was not seen at all: it may be on a host that nobody watches."""
    lines = [f"{_ranks(found.waiting)} {'waits' if len(found.waiting) == 1 else 'wait'} in init_process_group"]
    for rank in found.elsewhere:
        lines.append(f"rank {rank} runs, and has not called it")
        if rank in evidence and evidence[rank].stack:
            lines.append(f"Python stack of rank {rank}, innermost first: " + " ← ".join(evidence[rank].stack[:6]))
    if found.unseen:
        lines.append(f"nothing was seen of {_ranks(found.unseen)}: not started, or not yet through `import torch`")
    return Verdict(
        anomaly="H1",
        guilty_ranks=sorted((*found.elsewhere, *found.unseen)),
        confidence="low" if found.unseen else "high",
        cause="never came to init_process_group",
        group=RENDEZVOUS,
        operation="barrier",
        sequence=1,
        waiting_ranks=sorted(found.waiting),
        evidence=lines,
        since_s=found.since_s,
        at_s=now_s,
    )


def _inside(view: RankView, group: int, number: int) -> bool:
    return view.sample.alive and any(f.group == group and f.entered_seq == number > f.done_count for f in view.sample.frames)


def _busy_or_gone(view: RankView, now_s: float) -> bool:
    """It reads or writes (a checkpoint, a data set), or another class says why it does not come."""
    sample = view.sample
    return now_s - view.io_s < PATIENCE_S or not sample.alive or sample.stopped or sample.goodbye != Goodbye.NONE


def _ranks(ranks: tuple[int, ...]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, sorted(ranks)))}"
