"""Boxes and arrows: each box stands right of all that point to it, where the arrows allow it."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt

from tightwire.core.records import Graph

_PLAIN, _MARKED = "#e8edf3", "#f6c6b5"
_MOST = 40  # boxes; the rest is counted


def draw(graph: Graph) -> Any:
    """A matplotlib figure."""
    shown = sorted({*graph.marked, *range(len(graph.nodes))}, key=lambda n: (n not in graph.marked, n))[:_MOST]
    column = _columns(len(graph.nodes), graph.arrows)
    rows: dict[int, int] = {}
    places: dict[int, tuple[float, float]] = {}
    for node in sorted(shown):
        row = rows.get(column[node], 0)
        rows[column[node]] = row + 1
        places[node] = (float(column[node]), float(row))
    height = max(rows.values(), default=1)
    for node, (x, y) in places.items():  # columns centred
        places[node] = (x, (height - rows[int(x)]) / 2 + y)
    width = max(rows, default=0) + 1
    figure, axes = plt.subplots(figsize=(1.5 + 3.6 * width, 1.0 + 0.95 * height), dpi=120, layout="constrained")
    for begin, end in graph.arrows:
        if begin in places and end in places:
            axes.annotate(
                "", places[end], places[begin], zorder=1,
                arrowprops={"arrowstyle": "-|>", "color": "#52606d", "shrinkA": 62, "shrinkB": 66, "connectionstyle": "arc3,rad=0.06"},
            )  # fmt: skip
    for node, (x, y) in places.items():
        box = {"boxstyle": "round,pad=0.5", "facecolor": _MARKED if node in graph.marked else _PLAIN, "edgecolor": "#9aa5b1"}
        axes.text(x, y, graph.nodes[node], ha="center", va="center", fontsize=8, bbox=box, zorder=2)
    axes.set_xlim(-0.6, width - 0.4)
    axes.set_ylim(height - 0.3, -0.7)
    axes.axis("off")
    left = len(graph.nodes) - len(shown)
    axes.set_title(graph.title + (f" ({left} more boxes are not drawn)" if left else ""), loc="left", fontsize=11)
    return figure


def _columns(count: int, arrows: list[tuple[int, int]]) -> list[int]:
    """The longest way to each box; boxes of a circle share what is reached of it in `count` rounds."""
    column = [0] * count
    for _ in range(min(count, 12)):
        changed = False
        for begin, end in arrows:
            if column[end] < column[begin] + 1 <= 12:
                column[end], changed = column[begin] + 1, True
        if not changed:
            break
    used = {value: place for place, value in enumerate(sorted(set(column)))}
    return [used[value] for value in column]
