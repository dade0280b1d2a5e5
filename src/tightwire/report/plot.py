"""A record as a PNG picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from tightwire.core.records import Bars, Cloud, Graph, Picture, Timeline
from tightwire.report import graph, timeline

_COLOURS = ("#9aa5b1", "#4c78a8", "#e07b39", "#54a24b", "#b279a2")


_MARKS = ("o", "^", "s", "D", "v")


def render(record: Picture) -> bytes:
    """PNG bytes."""
    match record:
        case Bars():
            figure = _bars(record)
        case Cloud():
            figure = _cloud(record)
        case Graph():
            figure = graph.draw(record)
        case Timeline():
            figure = timeline.draw(record)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    plt.close(figure)
    return stream.getvalue()


def _bars(bars: Bars) -> Any:
    """Grouped bars, each with its value on top."""
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
    return figure


def _cloud(cloud: Cloud) -> Any:
    """A 3-D picture, and below it the same from three sides."""
    figure = plt.figure(figsize=(10, 10.5), dpi=110)
    space: Any = figure.add_subplot(3, 3, (1, 6), projection="3d")
    space.view_init(elev=22, azim=-125)
    pairs = [(0, 2), (1, 2), (0, 1)]
    sides = [figure.add_subplot(3, 3, 7 + number) for number in range(3)]
    for index, (name, points) in enumerate(zip(cloud.series, cloud.points, strict=True)):
        values = np.array(points, float).reshape(-1, 3)
        style: dict[str, Any] = {"color": _COLOURS[index % len(_COLOURS)], "marker": _MARKS[index % len(_MARKS)], "s": 14 + 10 * index}
        scaled = [_scaled(cloud, axis)(values[:, axis]) for axis in range(3)]
        space.scatter(*scaled, label=name, depthshade=False, **style)
        for side, (x, y) in zip(sides, pairs, strict=True):
            side.scatter(values[:, x], values[:, y], **{**style, "s": style["s"] / 2})
        for label, x, y, z in zip(cloud.labels[index], *scaled, strict=True):
            if label:
                space.text(x, y, z, f"  {label}", fontsize=6.5)
    for axis, (ticks, name) in enumerate(zip((space.xaxis, space.yaxis, space.zaxis), cloud.axes, strict=True)):
        ticks.set_label_text(name, fontsize=9)
        if name in cloud.log:
            ticks.set_major_formatter(lambda value, _: f"{10**value:.3g}")
        for side, pair in zip(sides, pairs, strict=True):
            if axis in pair and name in cloud.log:
                (side.set_xscale if axis == pair[0] else side.set_yscale)("log")
    for side, (x, y) in zip(sides, pairs, strict=True):
        side.set_xlabel(cloud.axes[x], fontsize=8)
        side.set_ylabel(cloud.axes[y], fontsize=8)
        side.tick_params(labelsize=7)
        side.spines[["top", "right"]].set_visible(False)
    space.set_title(cloud.title, loc="left", fontsize=11)
    space.legend(frameon=False, fontsize=8, loc="upper right")
    figure.tight_layout()
    return figure


def _scaled(cloud: Cloud, axis: int) -> Callable[[Any], Any]:
    """3-D axes know no logarithms: values are drawn as theirs."""
    return np.log10 if cloud.axes[axis] in cloud.log else lambda values: values
