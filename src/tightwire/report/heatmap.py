"""Heat maps as a PNG picture: one panel for each matrix, all on one colour scale, each cell with its value."""

from __future__ import annotations

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import msgspec
import numpy as np
from matplotlib.colors import LogNorm

_WRITTEN_CELLS = 512  # above, values would not be legible


class Heat(msgspec.Struct, frozen=True):
    """`panels` by title: `[rows][columns]` of one shape, drawn on a logarithmic colour scale from the least value above 0."""

    title: str
    unit: str
    rows: str
    columns: str
    panels: dict[str, list[list[float]]]


def render(heat: Heat) -> bytes:
    """PNG bytes."""
    values = np.array(list(heat.panels.values()), float)
    panels, rows, columns = values.shape
    size = (2.4 + panels * max(1.6, 0.55 * columns), 1.6 + 0.34 * rows)
    figure, axes = plt.subplots(1, panels, figsize=size, dpi=130, sharey=True, squeeze=False, layout="constrained")
    above = values[values > 0]
    low, high = (float(above.min()), float(above.max())) if above.size else (0.1, 1.0)
    norm = LogNorm(low, high if high > low else low * 10)
    for axis, (name, panel) in zip(axes[0], heat.panels.items(), strict=True):
        image = axis.imshow(np.maximum(panel, low), cmap="YlOrRd", norm=norm, aspect="auto")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel(heat.columns)
        axis.set_xticks(range(columns))
        axis.set_yticks(range(rows))
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0, labelsize=8)
        for row, column in np.ndindex(rows, columns) if values.size <= _WRITTEN_CELLS else ():
            value = panel[row][column]
            colour = "white" if value > 0 and norm(value) > 0.6 else "black"
            axis.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=7, color=colour)
    axes[0][0].set_ylabel(heat.rows)
    figure.colorbar(image, ax=list(axes[0]), label=heat.unit)
    figure.suptitle(heat.title, fontsize=11)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    plt.close(figure)
    return stream.getvalue()
