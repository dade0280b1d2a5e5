"""What the controller would do for one kind of request across link speeds, and what it gains: `tightwire kv plan`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tightwire.core.records import Bars, Page, Table
from tightwire.core.units import format_rate, format_size, format_time
from tightwire.errors import ConfigError
from tightwire.kv.block import DTYPES
from tightwire.kv.control.controller import Controller
from tightwire.kv.control.latency import break_even_bytes_per_s
from tightwire.kv.control.records import Candidate, Decision, Record, Request
from tightwire.kv.control.settings import Settings
from tightwire.kv.profiles import ProfileLibrary
from tightwire.kv.strategy import Strategy
from tightwire.net.estimator import LinkEstimate

AROUND = (1 / 25, 1 / 5, 1 / 2.5, 1.0, 4.0, 16.0)  # of the link asked for
TOP = 6  # candidates that are shown
CALM = {"explore_share": 0.0}  # what is known, not what may be tried


class Shape(msgspec.Struct, frozen=True):
    """A model's KV: layers, KV heads, head_dim, and its dtype."""

    layers: int
    heads: int
    head_dim: int
    dtype: str = "bfloat16"

    @classmethod
    def parse(cls, text: str) -> Shape:
        """`L,H,D[,dtype]`, like `32,8,128`; raises ConfigError."""
        parts = text.split(",")
        dtype = parts[3] if len(parts) == 4 else "bfloat16"
        if (
            len(parts) not in (3, 4)
            or not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts[:3])
            or dtype not in DTYPES
        ):
            raise ConfigError(
                f"model-shape={text!r}: write layers,KV heads,head_dim[,{'|'.join(DTYPES)}], like 32,8,128"
            )
        layers, heads, head_dim = map(int, parts[:3])
        return cls(layers, heads, head_dim, dtype)

    @property
    def token_bytes(self) -> int:
        return 2 * self.layers * self.heads * self.head_dim * DTYPES[self.dtype].itemsize


class Plan(msgspec.Struct, frozen=True):
    """The decision at `link_bytes_per_s`, the one that was asked about, and those around it."""

    request: Request
    link_bytes_per_s: float
    decisions: list[Decision]


def make(
    library: ProfileLibrary, request: Request, link_bytes_per_s: float, settings: Settings, latency_s: float = 1e-4
) -> Plan:
    """One decision for each of `AROUND` × `link_bytes_per_s`, by profiles alone."""
    controller = Controller(library, msgspec.structs.replace(settings, **CALM))
    links = [LinkEstimate(link_bytes_per_s * times, latency_s, 1) for times in AROUND]
    return Plan(request, link_bytes_per_s, [controller.decide(request, link) for link in links])


def page(plan: Plan, library: ProfileLibrary) -> Page:
    """Tables and a picture."""
    request = plan.request
    asked = plan.decisions[AROUND.index(1.0)]
    introduction = (
        f"KV of {request.tokens} tokens, {format_size(request.raw_bytes)} raw, "
        + (f"streamed beside {format_time(request.prefill_s)} of prefill. " if request.prefill_s else "after prefill. ")
        + f"At {format_rate(plan.link_bytes_per_s)}: {_short(asked.chosen)}; {asked.reason}."
    )
    return Page("tightwire kv plan", introduction, [links(plan), picture(plan), candidates(asked, library)])


def links(plan: Plan) -> Table:
    """What is chosen at each link speed."""
    rows = []
    for decision in plan.decisions:
        chosen, raw = decision.candidate, _of(decision, "raw")
        assert chosen is not None
        assert decision.link_bytes_per_s is not None
        c, r = chosen.corrected, raw.corrected
        rows.append([
            format_rate(decision.link_bytes_per_s), _short(decision.chosen), format_time(c.total_s), format_time(r.total_s),
            f"{r.total_s / c.total_s:.2f}×", f"{chosen.quality:.3f}", _slo(c.total_s, plan.request.slo_s),
        ])  # fmt: skip
    return Table(
        "What would be chosen", ["link", "strategy", "time", "raw takes", "gain", "quality", "SLO"], rows,
        ["time", "raw takes", "gain", "quality"], ["time: until all KV is decoded; prefill, where it is given, is in it"],
    )  # fmt: skip


def candidates(decision: Decision, library: ProfileLibrary) -> Table:
    """The fastest candidates at one link speed."""
    profiles = {p.strategy: p for p in library.profiles}
    shown = sorted(decision.candidates, key=lambda c: (c.refused is not None, c.corrected.total_s))[:TOP]
    rows = []
    for c in shown:
        p, t = profiles[c.strategy], c.corrected
        even = break_even_bytes_per_s(p, profiles["raw"])
        rows.append([
            _short(c.strategy), f"{p.ratio:.2f}", format_time(t.encode_s), format_time(t.wire_s), format_time(t.decode_s),
            format_time(t.total_s), "-" if c.strategy == "raw" else format_rate(even), c.refused or "",
        ])  # fmt: skip
    return Table(
        f"Candidates at {format_rate(decision.link_bytes_per_s or 0)}",
        ["strategy", "ratio", "encode", "wire", "decode", "all", "break-even", "refused because"], rows,
        ["ratio", "encode", "wire", "decode", "all", "break-even"],
        ["stages overlap; break-even: on a faster link raw is faster, for many chunks without prefill beside them"],
    )  # fmt: skip


def picture(plan: Plan) -> Bars:
    """Raw and the choice at each link speed."""
    raw = [_of(d, "raw").corrected.total_s for d in plan.decisions]
    chosen = [d.candidate.corrected.total_s for d in plan.decisions if d.candidate is not None]
    names = [format_rate(d.link_bytes_per_s or 0) for d in plan.decisions]
    return Bars("Time of a transfer", "seconds", names, ["raw", "chosen"], [raw, chosen], log=True)


def explained(decisions: Sequence[tuple[Decision, str, str]]) -> Table:
    """Decisions as a table, each with its measured time and its error as text."""
    rows = []
    for decision, measured, error in decisions:
        candidate = decision.candidate
        rows.append([
            format_size(decision.request.raw_bytes), format_rate(decision.link_bytes_per_s) if decision.link_bytes_per_s else "unknown",
            _short(decision.chosen) if decision.send else "nothing sent", format_time(candidate.corrected.total_s) if candidate else "-", measured, error,
            decision.reason,
        ])  # fmt: skip
    return Table(
        "Decisions, the last at the end", ["KV", "link", "strategy", "predicted", "measured", "off by", "why"], rows,
        ["KV", "link", "predicted", "measured", "off by"],
    )  # fmt: skip


def candidates_of(record: Record) -> Table:
    """Candidates of one decision: predicted by profile, corrected, and the chosen one's measured stages."""
    decision, outcome = record.decision, record.outcome
    rows = []
    for c in sorted(decision.candidates, key=lambda c: (c.refused is not None, c.corrected.total_s))[:TOP]:
        rows.append([
            _short(c.strategy), f"{c.quality:.3f}", format_time(c.predicted.total_s), format_time(c.corrected.encode_s),
            format_time(c.corrected.wire_s), format_time(c.corrected.decode_s), format_time(c.corrected.total_s),
            "chosen" if c.strategy == decision.chosen else c.refused or "",
        ])  # fmt: skip
    if outcome is not None:
        stages = (outcome.encode_s, outcome.wire_s, outcome.decode_s, outcome.total_s)
        rows.append(["measured", "", "", *map(format_time, stages), "failed" if outcome.failed else ""])
    return Table(
        "Candidates of the last one", ["strategy", "quality", "by profile", "encode", "wire", "decode", "all", ""], rows,
        ["quality", "by profile", "encode", "wire", "decode", "all"], ["stages and all: with corrections"],
    )  # fmt: skip


def _of(decision: Decision, strategy: str) -> Candidate:
    return next(c for c in decision.candidates if c.strategy == strategy)


def _short(strategy: str) -> str:
    return Strategy.parse(strategy).short


def _slo(total_s: float, slo_s: float | None) -> str:
    return "" if slo_s is None else "met" if total_s <= slo_s else "missed"
