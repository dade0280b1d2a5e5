"""An incident as a Chrome trace: a row for each rank, for chrome://tracing and ui.perfetto.dev.

Format: "Trace Event Format" (complete events `X`, instants `i`, metadata `M`); times in microseconds.
"""

from __future__ import annotations

from typing import Any

from tightwire.ccl.incident import Incident


def events(incident: Incident) -> dict[str, Any]:
    """The trace as JSON; what has not ended goes on until the verdict and is named so."""
    verdict = incident.verdict
    guilty = set(verdict.guilty_ranks)
    ranks = sorted({each.rank for each in incident.operations} | guilty)
    found: list[dict[str, Any]] = []
    for rank in ranks:
        name = f"rank {rank}{' (guilty)' if rank in guilty else ''}"
        found.append({"ph": "M", "name": "process_name", "pid": rank, "tid": 0, "args": {"name": name}})
        found.append({"ph": "M", "name": "process_sort_index", "pid": rank, "tid": 0, "args": {"sort_index": rank}})
    lanes = {group: lane for lane, group in enumerate(dict.fromkeys(each.group for each in incident.operations))}
    for rank in ranks:
        for group, lane in lanes.items():
            found.append(
                {
                    "ph": "M",
                    "name": "thread_name",
                    "pid": rank,
                    "tid": lane,
                    "args": {"name": incident.group_name(group)},
                }
            )
    for each in incident.operations:
        end_s = verdict.at_s if each.ended_s is None else each.ended_s
        found.append({
            "ph": "X", "pid": each.rank, "tid": lanes[each.group], "ts": each.entered_s * 1e6,
            "dur": max(end_s - each.entered_s, 0.0) * 1e6,
            "name": f"{each.name} {each.sequence}{' (has not ended)' if each.ended_s is None else ''}",
            "cat": "failed" if each.failed else "collective",
            "args": {"bytes": each.size_bytes, "group": incident.group_name(each.group)},
        })  # fmt: skip
    found.append({
        "ph": "i", "s": "g", "pid": min(ranks, default=0), "tid": 0, "ts": verdict.at_s * 1e6,
        "name": f"verdict {verdict.anomaly}: {verdict.cause}",
    })  # fmt: skip
    return {"traceEvents": found, "displayTimeUnit": "ms"}
