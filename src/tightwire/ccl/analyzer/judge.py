"""From suspects and the evidence about them to one verdict."""

from __future__ import annotations

from collections.abc import Mapping

from tightwire.ccl.analyzer.not_entered import Suspect
from tightwire.ccl.collector import RankView
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.probe.process import STATES
from tightwire.ccl.probe.ring import Goodbye
from tightwire.ccl.summary import GroupFacts
from tightwire.ccl.verdict import Verdict
from tightwire.core.events import operation


def judge(
    suspects: list[Suspect],
    ranks: Mapping[int, RankView],
    groups: Mapping[int, GroupFacts],
    evidence: Mapping[int, Evidence],
    now_s: float,
) -> Verdict:
    """One H1 verdict over all `suspects` of one moment (at least one)."""
    wait = next((s.wait for s in suspects if s.wait is not None), None)
    lines, causes = [], []
    for suspect in suspects:
        cause, told = _explain(suspect, ranks[suspect.rank], evidence.get(suspect.rank))
        causes.append(cause)
        lines += told
    guilty = sorted(s.rank for s in suspects)
    waiting = sorted({r for s in suspects for r in s.waiting_ranks} - set(guilty))
    group = ""
    if wait is not None:
        group = groups[wait.group].name if wait.group in groups else f"{wait.group:016x}"
        who = ", ".join(map(str, waiting))
        lines.append(f"rank(s) {who} wait in {operation(wait.op)} number {wait.sequence} of group {group!r}")
    return Verdict(
        anomaly="H1",
        guilty_ranks=guilty,
        confidence="high",
        cause="; ".join(dict.fromkeys(causes)),
        group=group,
        operation=operation(wait.op) if wait else "",
        sequence=wait.sequence if wait else 0,
        waiting_ranks=waiting,
        evidence=lines,
        since_s=min(s.since_s for s in suspects),
        at_s=now_s,
    )


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
