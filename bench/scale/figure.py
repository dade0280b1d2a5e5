"""The collector's cost over the number of ranks, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from scale.costs import Cost


def save(costs: Sequence[Cost], path: Path) -> None:
    """Seconds of one core for a second of all summaries, and memory, each with a line of slope one."""
    costs = sorted(costs, key=lambda each: each.ranks)
    ranks = [each.ranks for each in costs]
    figure, both = plt.subplots(1, 2, figsize=(9, 3.4), dpi=130)
    panels = (
        (both[0], [each.second_s for each in costs], "processor time for a second of the job (s)"),
        (both[1], [each.memory_gb for each in costs], "resident memory (GB)"),
    )
    for axes, values, label in panels:
        axes.loglog(ranks, values, "o-", color="#4c78a8", label="measured")
        axes.loglog(ranks, [values[-1] * each / ranks[-1] for each in ranks], ":", color="#9aa5b1", label="linear")
        axes.set_xticks(ranks, [f"{each:,}" for each in ranks])
        axes.minorticks_off()
        axes.set_xlabel("ranks")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
