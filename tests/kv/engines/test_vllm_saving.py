"""What prefixes are saved with."""

from pathlib import Path

import pytest

from tightwire.kv.engines.vllm.saving import Saving
from tightwire.kv.engines.vllm.settings import Settings
from tightwire.kv.profiles import Profile, ProfileLibrary
from tightwire.kv.strategy import Strategy

SMALL, QUICK, POOR = "hadamard+uniform:levels=6+rans", "uniform:levels=16+pack", "uniform:levels=3+zstd"
RAW_BYTES, CHUNKS = 10_000_000, 30


@pytest.fixture
def library(tmp_path: Path) -> str:
    profiles = [
        Profile("raw", 1.0, 1e10, 1e10, 1.0), Profile(SMALL, 12.0, 1e8, 1.5e8, 0.98), Profile(QUICK, 3.5, 1e9, 1e9, 0.985),
        Profile(POOR, 20.0, 1e9, 1e9, 0.9),
    ]  # fmt: skip
    ProfileLibrary("m", profiles, {}).save(tmp_path / "library.json")
    return str(tmp_path / "library.json")


@pytest.mark.parametrize(("budget", "expected"), [(0.97, SMALL), (0.99, "raw"), (0.5, POOR)])
def test_before_the_first_load_the_smallest_within_the_budget(library: str, budget: float, expected: str) -> None:
    saving = Saving(Settings("kv_both", strategy="auto", library=library, quality_budget=budget))
    assert saving.smallest == saving.strategy(RAW_BYTES, CHUNKS) == Strategy.parse(expected)


@pytest.mark.parametrize(("link", "expected"), [(1e6, SMALL), (12e6, SMALL), (1e8, QUICK), (3e9, "raw")])
def test_then_what_is_loaded_fastest_over_the_link_that_loads_found(library: str, link: float, expected: str) -> None:
    saving = Saving(Settings("kv_both", strategy="auto", library=library))
    saving.observe(int(link), 1.0)
    assert saving.strategy(RAW_BYTES, CHUNKS) == Strategy.parse(expected)


def test_a_fixed_strategy_stays(library: str) -> None:
    saving = Saving(Settings("kv_both", strategy=QUICK))
    saving.observe(10**9, 1.0)
    assert saving.strategy(RAW_BYTES, CHUNKS) == saving.smallest == Strategy.parse(QUICK)
