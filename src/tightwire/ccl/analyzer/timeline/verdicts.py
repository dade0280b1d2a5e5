"""S1, S2 or S3 from a recorded timeline, in words."""

from __future__ import annotations

import numpy as np

from tightwire.ccl.analyzer.timeline.losses import Losses, Slow, losses, over_the_others
from tightwire.ccl.analyzer.timeline.rounds import Rounds, rounds
from tightwire.ccl.sources.timeline.operations import Timeline
from tightwire.ccl.verdict import AnomalyClass, Verdict
from tightwire.errors import ConfigError

SURE = 5  # steps that say so


def diagnose(timeline: Timeline) -> list[Verdict]:
    """One verdict, or none when nobody loses time again and again. Raises ConfigError when ranks cannot be compared."""
    found = rounds(timeline)
    if not len(found.group):
        raise ConfigError(
            "timeline: no operation has two ranks; is the group's column the right one, and are all ranks there?"
        )
    lost = losses(found, len(timeline.groups))
    others = over_the_others(found, lost.transfer)
    late, drag, groups = lost.slow(lost.late), list[Slow](), list[Slow]()
    if timeline.ends:
        drag, groups = lost.slow(lost.drag), lost.slow(np.maximum(others, lost.over_its_own()))
    if not (late or drag or groups):
        return []
    return [_verdict(timeline, found, lost, late, drag, groups, others)]


def _verdict(
    timeline: Timeline,
    found: Rounds,
    lost: Losses,
    late: list[Slow],
    drag: list[Slow],
    groups: list[Slow],
    others: object,
) -> Verdict:
    links, ends = _links(timeline, found, drag, groups)
    guilty = sorted({int(found.ranks[each.index]) for each in late} | ends)
    anomaly: AnomalyClass = "S1" if not (drag or groups) else "S3" if late else "S2"
    slow = [*late, *drag, *groups]
    first, last = min(each.first for each in slow), max(each.last for each in slow)
    over = last < len(lost.end_s) - max(lost.window // 2, 2)
    begun_s = float(found.begin_s.min())
    since_s = float(lost.end_s[first - 1]) if first else begun_s
    group, at = _where(found, late, drag, groups)
    members = timeline.members[group]
    lines = [_how_much(found, lost, first, last)]
    lines += [_late(found, lost, each) for each in late]
    lines += [_drag(found, lost, each) for each in drag]
    lines += [_group(timeline, lost, each, bool(np.asarray(others)[:, each.index].any())) for each in groups]
    waited, moved = sum(each.share for each in late), sum(each.share for each in (*drag, *groups))
    lines.append(f"P = {waited / (waited + moved):.2f} of the lost time was waiting for late ranks, the rest transfer")
    if np.any(found.lead_s):
        apart_ms = float(np.ptp(found.lead_s)) * 1e3
        lines.append(
            f"the clocks of the ranks are up to {apart_ms:.1f} ms apart, by the operations that all leave together"
        )
    causes = [f"rank {int(found.ranks[each.index])} computes slowly" for each in late]
    causes += [f"link or device of rank {rank}: slow" for rank in sorted(ends)]
    causes += [f"link {link}: slow" for link in links] if not ends else []
    causes += [f"transfers of group {timeline.groups[each.index]!r} are slow" for each in groups if not (links or ends)]
    return Verdict(
        anomaly=anomaly,
        guilty_ranks=guilty,
        guilty_links=links,
        confidence="high" if len(lost.end_s) >= SURE and (late or groups) and (guilty or links) else "low",
        cause="; ".join(causes),
        group=timeline.groups[group],
        operation=timeline.ops[int(found.op[at])],
        sequence=int(found.sequence[at]),
        waiting_ranks=sorted(set(members) - set(guilty)),
        evidence=lines + timeline.notes,
        since_s=since_s,
        at_s=float(lost.end_s[-1]),
        ended_s=float(lost.end_s[last]) if over else None,
    )


def _links(timeline: Timeline, found: Rounds, drag: list[Slow], groups: list[Slow]) -> tuple[list[str], set[int]]:
    """The slow links of pairs, and the ranks whose own link or device it is: that which leaves late, or the one rank in all
    the slow groups."""
    ends = {int(found.ranks[each.index]) for each in drag}
    slow = [timeline.members[each.index] for each in groups]
    shared = set(slow[0]).intersection(*slow[1:]) if len(slow) > 1 else set()
    if not ends and len(shared) == 1:
        ends = shared
    return sorted(f"{min(pair)}-{max(pair)}" for pair in slow if len(pair) == 2), ends


def _where(found: Rounds, late: list[Slow], drag: list[Slow], groups: list[Slow]) -> tuple[int, int]:
    """The group in which most was lost to them, and the round of it in which most was."""
    cost_s = np.zeros(len(found.group))
    for lost_s, slow in ((found.late_s, late), (found.drag_s, drag)):
        mine = np.isin(found.rank, [each.index for each in slow])
        np.add.at(cost_s, found.round[mine], lost_s[mine])
    if not late and not drag:
        cost_s = np.where(np.isin(found.group, [each.index for each in groups]), found.transfer_s, 0.0)
    group = int(np.bincount(found.group, cost_s).argmax())
    return group, int(np.where(found.group == group, cost_s, -1.0).argmax())


def _how_much(found: Rounds, lost: Losses, first: int, last: int) -> str:
    length_ms, usual_ms = float(np.median(lost.length_s[first : last + 1])) * 1e3, lost.step_s * 1e3
    return (
        f"in steps {first} to {last} of {len(lost.end_s)} recorded, a step takes {length_ms:.1f} ms; without what it loses it "
        f"would take {usual_ms:.1f} ms"
    )


def _late(found: Rounds, lost: Losses, each: Slow) -> str:
    mine = lost.late[each.first : each.last + 1, each.index] * lost.step_s * 1e3
    rest = np.delete(lost.late[each.first : each.last + 1], each.index, axis=1) * lost.step_s * 1e3
    return (
        f"rank {int(found.ranks[each.index])} enters its collectives {float(np.mean(mine)):.1f} ms late in each step, by its own "
        f"doing; the others {float(rest.mean()) if rest.size else 0.0:.1f} ms"
    )


def _drag(found: Rounds, lost: Losses, each: Slow) -> str:
    mine_ms = float(np.mean(lost.drag[each.first : each.last + 1, each.index])) * lost.step_s * 1e3
    return f"rank {int(found.ranks[each.index])} leaves its collectives {mine_ms:.1f} ms after the others in each step"


def _group(timeline: Timeline, lost: Losses, each: Slow, beside: bool) -> str:
    now_ms = float(np.mean(lost.transfer[each.first : each.last + 1, each.index])) * lost.step_s * 1e3
    against = "groups that do the same" if beside else "its own first steps"
    return (
        f"transfers of group {timeline.groups[each.index]!r} (rank {', '.join(map(str, timeline.members[each.index]))}) take "
        f"{now_ms:.1f} ms of each step once all ranks have come, {each.share * lost.step_s * 1e3:.1f} ms more than {against}"
    )
