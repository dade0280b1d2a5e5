"""A finding about a slow job in words that a person can act on."""

from __future__ import annotations

from collections.abc import Mapping

from tightwire.ccl.analyzer.slow.detector import Finding
from tightwire.ccl.analyzer.slow.links import Flow
from tightwire.ccl.analyzer.stopped import Pair
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.throttling import Throttling
from tightwire.ccl.verdict import Verdict
from tightwire.core.events import operation


def slow(
    found: Finding, evidence: Mapping[int, Evidence], throttling: Mapping[int, Throttling], now_s: float
) -> Verdict:
    """An S1, S2 or S3 verdict; with its end when the job has recovered."""
    facts, op, sequence = found.where
    guilty = set(found.ranks)
    pairs: list[str] = []
    causes, lines = [], [_how_much(found)]
    for rank in found.ranks:
        cause, told = _rank(found, rank, evidence.get(rank), throttling.get(rank))
        causes.append(cause)
        lines += told
    if found.links is not None:
        pairs = [f"{a}-{b}" for a, b in found.links.pairs]
        guilty |= set(found.links.devices)
        causes += [f"network device of rank {device}: slow to or from other ranks" for device in found.links.devices]
        alone = [f"{a}-{b}" for a, b in found.links.alone]
        causes += [f"link{'s' if len(alone) > 1 else ''} {', '.join(alone)}: slow"] if alone else []
        lines += [_flow(pair, *flows) for pair, flows in found.links.flows.items()]
        lines.append(f"transfers of group {facts.name!r} take longer, though all ranks have come")
    lines.append(f"P = {share_of_arrivals(found):.2f} of the lost time was waiting for late ranks, the rest transfer")
    if found.ended_s is not None:
        lines.append(f"recovered: it lasted {found.ended_s - found.since_s:.1f} s")
        causes = [f"recovered: {cause}" for cause in causes]
    return Verdict(
        anomaly=found.anomaly,
        guilty_ranks=sorted(guilty),
        guilty_links=pairs,
        confidence="high",
        cause="; ".join(dict.fromkeys(causes)),
        group=facts.name,
        operation=operation(op),
        sequence=sequence,
        waiting_ranks=sorted(set(facts.ranks) - guilty),
        evidence=lines,
        since_s=found.since_s,
        at_s=now_s,
        ended_s=found.ended_s,
    )


def share_of_arrivals(found: Finding) -> float:
    """P = (Tmax − Tmin)/(Tmax − Tbase), with the time lost over many rounds: to late ranks, of all that was lost."""
    late, transfer = float(found.excess.own.max(initial=0.0)), float(found.excess.transfer.max(initial=0.0))
    return late / (late + transfer) if late + transfer > 0 else 0.0


def _how_much(found: Finding) -> str:
    longer, ms = found.excess.longer, found.step_s * 1e3
    return f"a step takes {1 + longer:.1f} × its usual {ms:.0f} ms, over the last {found.excess.steps} steps"


def _rank(found: Finding, rank: int, seen: Evidence | None, throttled: Throttling | None) -> tuple[str, list[str]]:
    usual_s, now_s = found.work_s[rank]
    share = found.excess.own[rank]
    told = [
        f"rank {rank} works {now_s * 1e3:.0f} ms between its collectives in each step, {usual_s * 1e3:.0f} ms before; the "
        f"others wait for it {share * found.step_s * 1e3:.0f} ms longer than usual"
    ]
    cause = f"rank {rank} computes slowly"
    if throttled is not None and throttled.share > 0:
        cause = f"processor quota on rank {rank}"
        told.append(
            f"its control group {throttled.group} may use {throttled.cores:.2f} cores and was held back in "
            f"{100 * throttled.share:.0f} % of the periods"
        )
    if seen is not None and seen.stack:
        told.append(f"Python stack of rank {rank}, innermost first: " + " ← ".join(seen.stack[:6]))
    return cause, told


def _flow(pair: Pair, now: Flow, before: Flow | None) -> str:
    trip = f", round trip {now.rtt_s * 1e3:.1f} ms" if now.rtt_s > 0 else ""  # NCCL's proxies do not know it
    usual = f", {before.speed_bytes_per_s / 1e6:.1f} before" if before is not None else ""
    return (
        f"rank {pair[0]} → rank {pair[1]}: {now.speed_bytes_per_s / 1e6:.1f} MB/s while it has bytes to send{usual}; bytes "
        f"queued at {100 * now.queued:.0f} % of the looks{trip}"
    )
