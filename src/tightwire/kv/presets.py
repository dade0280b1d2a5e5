"""Published methods by name: each is one composition of our stages (`presets.toml`)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from tightwire.kv.strategy import Strategy


@dataclass(frozen=True)
class Preset:
    """`paper`: the definition it is held against; `differs`: where the composition departs from it."""

    name: str
    strategy: Strategy
    paper: str
    differs: str


@lru_cache(maxsize=1)
def presets() -> dict[str, Preset]:
    """All presets by name, in the order of the file."""
    data = tomllib.loads(files("tightwire.kv").joinpath("presets.toml").read_text(encoding="utf-8"))
    return {
        name: Preset(name, Strategy.parse(entry["strategy"]), entry["paper"], entry["differs"])
        for name, entry in data.items()
    }


def resolve(text: str) -> Strategy:
    """The preset called `text`, or the strategy that it spells; StrategyError when it is neither."""
    found = presets().get(text)
    return found.strategy if found else Strategy.parse(text)
