"""Bars along a time axis, a lane for each row."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt

from tightwire.core.records import Timeline

_COLOURS = ("#4c78a8", "#54a24b", "#b279a2", "#9aa5b1", "#72b7b2", "#eeca3b", "#9d755d")
_BAD = {"has not ended": "#e45756", "failed": "#7f1d1d"}


def draw(timeline: Timeline) -> Any:
    """A matplotlib figure."""
    figure, axes = plt.subplots(figsize=(10, 1.4 + 0.3 * max(len(timeline.lanes), 1)), dpi=120, layout="constrained")
    kinds = sorted({span.kind for span in timeline.spans} - set(_BAD)) + [k for k in _BAD if any(s.kind == k for s in timeline.spans)]
    for number, kind in enumerate(kinds):
        colour = _BAD.get(kind, _COLOURS[number % len(_COLOURS)])
        of = [span for span in timeline.spans if span.kind == kind]
        for lane in sorted({span.lane for span in of}):
            bars = [(span.begin_s, max(span.end_s - span.begin_s, 0.0)) for span in of if span.lane == lane]
            label = kind if lane == min(span.lane for span in of) else None
            axes.broken_barh(bars, (lane - 0.38, 0.76), facecolors=colour, edgecolors=colour, linewidth=0.4, label=label)
    for at_s, name in timeline.moments:
        axes.axvline(at_s, color="#1f2933", linewidth=0.8, linestyle=":")
        axes.text(at_s, -0.75, name, fontsize=7.5, ha="right", va="bottom", rotation=0)
    axes.set_yticks(range(len(timeline.lanes)), timeline.lanes, fontsize=8)
    axes.set_ylim(len(timeline.lanes) - 0.4, -1.3)
    axes.set_xlabel("seconds")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(timeline.title, loc="left", fontsize=11)
    if kinds:
        axes.legend(frameon=False, fontsize=7.5, ncols=min(len(kinds), 6), loc="upper left", bbox_to_anchor=(0, -0.18))
    return figure
