"""From suspects and the evidence about them to one verdict, in words a person can act on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from tightwire.ccl.analyzer.inconsistent import Inconsistency, value
from tightwire.ccl.analyzer.not_entered import Suspect
from tightwire.ccl.analyzer.stopped import Stopped
from tightwire.ccl.collector import RankView
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.probe.process import STATES
from tightwire.ccl.probe.ring import Goodbye
from tightwire.ccl.summary import GroupFacts
from tightwire.ccl.verdict import Verdict
from tightwire.core.events import operation


def not_entered(
    suspects: list[Suspect],
    ranks: Mapping[int, RankView],
    groups: Mapping[int, GroupFacts],
    evidence: Mapping[int, Evidence],
    now_s: float,
) -> Verdict:
    """One H1 verdict over all `suspects` of one moment (at least one); of low confidence where they were never heard of."""
    wait = next((s.wait for s in suspects if s.wait is not None), None)
    lines, causes = [], []
    unseen = [s.rank for s in suspects if s.how == "unseen"]
    if unseen:
        causes.append("nothing was ever heard of it")
        lines.append(f"no agent or probe has told of {_ranks(unseen)}: is one running on each host of the job?")
    for suspect in (s for s in suspects if s.how != "unseen"):
        cause, told = _explain(suspect, ranks[suspect.rank], evidence.get(suspect.rank))
        causes.append(cause)
        lines += told
    guilty = sorted(s.rank for s in suspects)
    waiting = sorted({r for s in suspects for r in s.waiting_ranks} - set(guilty))
    group = ""
    if wait is not None:
        group = _group_name(wait.group, groups)
        verb = "waits" if len(waiting) == 1 else "wait"
        lines.append(f"{_ranks(waiting)} {verb} in {operation(wait.op)} number {wait.sequence} of group {group!r}")
    return Verdict(
        anomaly="H1",
        guilty_ranks=guilty,
        confidence="low" if unseen else "high",
        cause="; ".join(dict.fromkeys(causes)),
        group=group,
        operation=operation(wait.op) if wait else "",
        sequence=wait.sequence if wait else 0,
        waiting_ranks=waiting,
        evidence=lines,
        since_s=min(s.since_s for s in suspects),
        at_s=now_s,
    )


def inconsistent(
    several: Sequence[Inconsistency], groups: Mapping[int, GroupFacts], evidence: Mapping[int, Evidence], now_s: float
) -> Verdict:
    """One H2 verdict over all that were found at one moment (at least one)."""
    each = [_inconsistent(found, groups, evidence, now_s) for found in several]
    first = next((verdict for verdict in each if verdict.guilty_ranks), each[0])
    guilty = sorted({rank for verdict in each for rank in verdict.guilty_ranks})
    return msgspec.structs.replace(
        first,
        guilty_ranks=guilty,
        cause="; ".join(dict.fromkeys(verdict.cause for verdict in each if verdict.guilty_ranks)) or first.cause,
        waiting_ranks=sorted({rank for verdict in each for rank in verdict.waiting_ranks} - set(guilty)),
        evidence=[line for verdict in each for line in verdict.evidence],
        since_s=min(verdict.since_s for verdict in each),
    )


def _inconsistent(
    found: Inconsistency, groups: Mapping[int, GroupFacts], evidence: Mapping[int, Evidence], now_s: float
) -> Verdict:
    """Without guilty ranks, and of low confidence, where it cannot be told who is right."""
    sequence, name = found.round.sequence, _group_name(found.round.group, groups)
    wrong = found.guilty or tuple(rank for rank in found.round.called if found.round.called[rank] == found.found)
    lines = [
        f"{_ranks(wrong)} called {found.found} as number {sequence} of group {name!r}",
        f"{_ranks(found.others)} called {found.expected} there",
    ]
    if found.field == "order":
        cause = "calls in another order"
        lines.append("the group makes both calls, at other times: the order differs")
    else:
        one, other = value(found.field, found.found), value(found.field, found.expected)
        cause = f"another {found.field}: {one} instead of {other}"
        lines.append(f"the {found.field} differs: {one} on {_ranks(wrong)}, {other} on {_ranks(found.others)}")
    if not found.guilty:
        cause = f"two sides, and nothing tells which is right ({found.field} differs)"
    for rank in wrong:
        if rank in evidence and evidence[rank].stack:
            lines.append(f"Python stack of rank {rank}, innermost first: " + " ← ".join(evidence[rank].stack[:6]))
    return Verdict(
        anomaly="H2",
        guilty_ranks=sorted(found.guilty),
        confidence="high" if found.guilty else "low",
        cause=cause,
        group=name,
        operation=operation(found.expected.op),
        sequence=sequence,
        waiting_ranks=sorted(set(found.round.called) - set(found.round.ended_s) - set(found.guilty)),
        evidence=lines,
        since_s=found.since_s,
        at_s=now_s,
    )


def stopped(found: Stopped, groups: Mapping[int, GroupFacts], now_s: float) -> Verdict:
    """An H3 verdict: one link, several, or the device of one rank."""
    wait, name = found.wait, _group_name(found.wait.group, groups)
    links = [f"{a}-{b}" for a, b in found.pairs]
    cause = f"link{'s' if len(links) > 1 else ''} {', '.join(links)}: nothing gets through"
    if found.devices:
        alone = [f"{a}-{b}" for a, b in found.pairs if not {a, b} & set(found.devices)]
        told = [
            f"network device of rank {device}: nothing gets through to or from other ranks"
            for device in found.devices
        ]
        cause = "; ".join(told + [f"link {link}: nothing gets through" for link in alone])
    where = f"{operation(wait.op)} number {wait.sequence} of group {name!r}"
    lines = [f"all ranks have entered {where}; none is missing"]
    if wait.missing:
        lines = [f"rank {wait.rank} waits in {where}, which others have not entered; yet bytes stand on its way there"]
    for each in found.connections:
        way = f"rank {each.rank} → rank {each.peer} ({each.socket.local} → {each.socket.remote})"
        lines.append(
            f"{way}: {each.socket.queued_bytes} bytes unacknowledged, sent again {each.socket.retransmits} times in a row "
            "without an answer"
        )
    lines += found.remarks
    return Verdict(
        anomaly="H3",
        guilty_ranks=list(found.devices),
        guilty_links=links,
        confidence="high",
        cause=cause,
        group=name,
        operation=operation(wait.op),
        sequence=wait.sequence,
        waiting_ranks=sorted(groups[wait.group].ranks) if wait.group in groups else [],
        evidence=lines,
        since_s=found.since_s,
        at_s=now_s,
    )


def _group_name(group: int, groups: Mapping[int, GroupFacts]) -> str:
    return groups[group].name if group in groups else f"{group:016x}"


def _ranks(ranks: Iterable[int]) -> str:
    named = sorted(ranks)
    return f"rank{'s' if len(named) > 1 else ''} {', '.join(map(str, named))}"


def _explain(suspect: Suspect, view: RankView, evidence: Evidence | None) -> tuple[str, list[str]]:
    """(cause, sentences) about one suspect."""
    sample = view.sample
    name = f"rank {suspect.rank} (pid {sample.pid})"
    where = ""
    if suspect.wait is not None:
        entered = view.entered(suspect.wait.group)
        short = suspect.wait.sequence > entered
        where = f" after {entered} operations of that group" if short else " inside the operation"
    if suspect.how == "left":
        if sample.goodbye == Goodbye.ERROR:
            return "exited with an exception", [f"{name} ended with a Python exception{where}, before any other rank"]
        return "process died", [f"{name} is dead: it vanished without a goodbye{where}, before any other rank"]
    told = []
    cause = "stopped" if suspect.how == "stopped" else "elsewhere"
    if evidence is not None:
        state = STATES.get(evidence.state, evidence.state)
        told.append(f"{name} is {state} (kernel state {evidence.state}){where}")
        if suspect.how == "elsewhere":
            burning = evidence.state == "R" or evidence.cpu_share > 0.5  # on a loaded machine the share is small
            cause = "running in Python, not communicating" if burning else "blocked outside the collective"
            told[-1] += f", using {100 * evidence.cpu_share:.0f} % of a core"
        if evidence.wait_channel:
            told.append(f"its kernel wait channel is {evidence.wait_channel}")
        if evidence.stack:
            told.append("its Python stack, innermost first: " + " ← ".join(evidence.stack[:6]))
    else:
        told.append(f"{name} made no progress{where}")
    return cause, told
