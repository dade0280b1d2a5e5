"""A record as a PNG picture."""

from __future__ import annotations

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from tightwire.core.records import Bars

_COLOURS = ("#9aa5b1", "#4c78a8", "#e07b39", "#54a24b", "#b279a2")


def render(bars: Bars) -> bytes:
    """PNG bytes of grouped bars, each with its value on top."""
    figure, axes = plt.subplots(figsize=(8, 3.6), dpi=130)
    width = 0.8 / max(len(bars.series), 1)
    for index, (name, values) in enumerate(zip(bars.series, bars.values, strict=True)):
        places = [group + (index - (len(bars.series) - 1) / 2) * width for group in range(len(bars.groups))]
        drawn = axes.bar(places, values, width * 0.92, label=name, color=_COLOURS[index % len(_COLOURS)])
        axes.bar_label(drawn, labels=[f"{value:.3g}" for value in values], fontsize=8, padding=2)
    axes.set_xticks(range(len(bars.groups)), bars.groups)
    axes.set_ylabel(bars.unit)
    axes.set_title(bars.title, loc="left", fontsize=11)
    if bars.log:
        axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    plt.close(figure)
    return stream.getvalue()
