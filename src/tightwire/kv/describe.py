"""What can be composed, as a table."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import get_args, get_type_hints

from tightwire.core.records import Table
from tightwire.kv.presets import presets
from tightwire.kv.stages import STAGES
from tightwire.kv.stages.base import Stage
from tightwire.kv.strategy import enumerate_chains


def stages() -> Table:
    """One row for each registered stage: name, what it turns into what, settings with defaults, and its summary."""
    order = {"floats": 0, "symbols": 1, "bytes": 2}
    kinds = sorted((STAGES[name] for name in STAGES.names()), key=lambda kind: (order[kind.takes], order[kind.gives]))
    return Table(
        "Stages",
        ["stage", "from → to", "settings", "what it does"],
        [[kind.name, f"{kind.takes} → {kind.gives}", _settings(kind), _summary(kind)] for kind in kinds],
        notes=[
            "strategy = chain, or K's chain / V's chain; chain = stages joined by +, from floats to bytes;",
            "settings follow a colon: uniform:levels=10,axis=token",
        ],
    )


def published() -> Table:
    """One row for each preset: name, paper, composition, where it departs from the paper."""
    return Table(
        "Published methods, as compositions",
        ["preset", "paper", "strategy", "differs"],
        [[p.name, p.paper.split(":")[0], p.strategy.short, p.differs or "-"] for p in presets().values()],
        notes=["a preset's name stands wherever a strategy is asked for"],
    )


def count() -> int:
    """Distinct chains over the usual settings."""
    return len(set(enumerate_chains()))


def _settings(kind: type[Stage]) -> str:
    hints = get_type_hints(kind)
    return "\n".join(
        f"{field.name}={field.default}"
        + (f" ({'|'.join(get_args(hints[field.name]))})" if get_args(hints[field.name]) else "")
        for field in fields(kind)
    )


def _summary(kind: type[Stage]) -> str:
    """The first paragraph of the module's docstring, or of the class's, without its name."""
    text = (sys.modules[kind.__module__].__doc__ or kind.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(text.removeprefix(f"`{kind.name}`:").split()).replace("`", "")
