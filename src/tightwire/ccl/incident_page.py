"""An incident as a page: the verdict, who waits for whom, what the ranks did, and the evidence."""

from __future__ import annotations

from collections import defaultdict

from tightwire.ccl.incident import Incident
from tightwire.ccl.verdict import TITLES
from tightwire.core.records import Graph, Page, Span, Table, Timeline

SHOWN_RANKS = 24
SHOWN_SPANS = 4000


def page(incident: Incident) -> Page:
    verdict = incident.verdict
    several = len(verdict.guilty_ranks) > 1
    who = f"ranks {', '.join(map(str, verdict.guilty_ranks))}" if several else verdict.who
    facts = [
        ["class", f"{verdict.anomaly}: {TITLES[verdict.anomaly]}"],
        ["guilty", who],
        ["cause", verdict.cause],
        ["confidence", verdict.confidence],
        [
            "where",
            f"{verdict.operation} number {verdict.sequence} of group {verdict.group!r}" if verdict.group else "-",
        ],
        ["waiting", ", ".join(map(str, verdict.waiting_ranks)) or "-"],
        ["time to verdict", f"{verdict.time_to_verdict_s:.1f} s"],
        ["job", " ".join(incident.command) or "-"],
    ]
    return Page(
        f"{verdict.anomaly}: {who}",
        verdict.cause,
        [
            Table("Verdict", ["", " "], facts),
            Table("Evidence", ["evidence"], [[line] for line in verdict.evidence]),
            waiting(incident),
            timeline(incident),
        ],
    )


def waiting(incident: Incident) -> Graph:
    """Ranks that wait for the same in one box; an arrow from who waits to who is waited for."""
    by_rank: dict[int, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
    for wait in sorted(incident.waits, key=lambda each: (each.group, each.sequence)):
        told = f"{wait.name} {wait.sequence} of {incident.group_name(wait.group)}"
        by_rank[wait.rank].append((told, tuple(rank for rank in wait.on)))
    verdict = incident.verdict
    missing = {rank for wait in incident.waits for rank in wait.on}
    boxes: dict[tuple[tuple[str, ...], bool, tuple[int, ...]], list[int]] = defaultdict(list)
    for rank in sorted({*by_rank, *missing, *verdict.guilty_ranks}):
        what = by_rank.get(rank, [])
        others = tuple(sorted({q for _, on in what for q in on}))
        boxes[tuple(told for told, _ in what), rank in verdict.guilty_ranks, others].append(rank)
    nodes, place = [], {}
    for number, ((what_told, guilty, _), ranks) in enumerate(boxes.items()):
        head = f"rank{'s' if len(ranks) > 1 else ''} {_ranges(ranks)}{' (guilty)' if guilty else ''}"
        nodes.append("\n".join([head, *(f"in {told}" for told in what_told[:3])]))
        place.update(dict.fromkeys(ranks, number))
    arrows = sorted(
        {(place[rank], place[q]) for rank, what in by_rank.items() for _, on in what for q in on if q in place}
    )
    marked = [number for number, (_, guilty, _) in enumerate(boxes) if guilty]
    return Graph("Who waits for whom", nodes, [pair for pair in arrows if pair[0] != pair[1]], marked)


def timeline(incident: Incident) -> Timeline:
    """The guilty, those who wait and some others, up to the verdict."""
    verdict = incident.verdict
    all_ranks = sorted({each.rank for each in incident.operations})
    first = [*verdict.guilty_ranks, *(r for r in verdict.waiting_ranks if r not in verdict.guilty_ranks)]
    ranks = sorted(list(dict.fromkeys([*first, *all_ranks]))[:SHOWN_RANKS])
    shown = [each for each in incident.operations if each.rank in set(ranks)][-SHOWN_SPANS:]
    begin_s = min((each.entered_s for each in shown), default=verdict.at_s)
    spans = [
        Span(
            ranks.index(each.rank), each.entered_s - begin_s,
            (verdict.at_s if each.ended_s is None else each.ended_s) - begin_s,
            "has not ended" if each.ended_s is None else "failed" if each.failed else each.name,
        )
        for each in shown
    ]  # fmt: skip
    lanes = [f"rank {rank}{' *' if rank in verdict.guilty_ranks else ''}" for rank in ranks]
    title = "What the ranks were in (* guilty)"
    if len(ranks) < len(all_ranks):
        title += f"; {len(ranks)} of {len(all_ranks)} ranks"
    return Timeline(
        title, lanes, spans, [(verdict.since_s - begin_s, "last seen to move"), (verdict.at_s - begin_s, "verdict")]
    )


def _ranges(ranks: list[int]) -> str:
    """`0-3, 7`"""
    parts: list[str] = []
    begin = previous = ranks[0]
    for rank in [*ranks[1:], None]:
        if rank is not None and rank == previous + 1:
            previous = rank
            continue
        parts.append(str(begin) if begin == previous else f"{begin}-{previous}")
        if rank is not None:
            begin = previous = rank
    return ", ".join(parts)
