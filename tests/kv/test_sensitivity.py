"""Parts measured alone, and the tables that follow from them."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from tests.kv.quality import models
from tightwire.errors import ConfigError
from tightwire.kv.quality import Part, Suite
from tightwire.kv.sensitivity import Sensitivity, SideSensitivity, layers_alone, measure, steps
from tightwire.kv.strategy import RAW, Strategy

ROUGH = Strategy.parse("uniform:levels=3+pack")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def suite() -> Suite:
    return Suite.of(lengths=(160,), prompts=1)


@pytest.fixture(scope="module")
def found(suite: Suite) -> Sensitivity:
    steps: list[tuple[int, int]] = []
    made = measure(suite, ROUGH, lambda done, total: steps.append((done, total)))
    assert steps == [(done, 26) for done in range(1, 27)]
    return made


def test_every_part_is_measured_and_loses_something(found: Sensitivity) -> None:
    for side in (found.k, found.v):
        assert np.shape(side.layers) == (4,)
        assert np.shape(side.heads) == np.shape(side.errors) == (4, 2)
        assert np.min(side.heads) > 0
        assert np.min(side.errors) > 0
        assert side.whole >= max(side.layers) * 0.5
    assert msgspec.json.decode(msgspec.json.encode(found), type=Sensitivity) == found


def test_a_part_is_that_part_and_no_other(suite: Suite) -> None:
    part = Part("v", 2, 1)
    x = torch.zeros(3, 4, 2, 5, 6)
    part.of(x).fill_(1)
    assert x[:, 2, 1].all()
    assert x.sum() == 3 * 5 * 6
    assert suite.measure_part(RAW, part)[0].relative == 1.0
    k, v = (suite.measure_part(ROUGH, Part(side))[0].relative for side in ("k", "v"))  # type: ignore[arg-type]
    only_k = suite.measure(Strategy(ROUGH.k, RAW.v)).relative
    assert (k, v) == (only_k, suite.measure(Strategy(RAW.k, ROUGH.v)).relative)
    assert suite.measure(RAW).relative == 1.0  # the suite's own KV is as it was


def test_tables_give_levels_to_the_heads_that_lose_most(suite: Suite, found: Sensitivity) -> None:
    table = found.mixed_table("k")
    strategy = Strategy.parse(f"mixed:high=64,low=2,share=88,table={table.name}+pack/raw")  # one head of eight is high
    (k, *_), _ = suite._sides.arrived(strategy)
    lost = (k.float() - suite._sides.groups[0].k.float()).square().mean(dim=(0, 3, 4))
    assert int(lost.argmin()) == int(np.argmax(found.k.heads))
    weights = np.asarray(found.allocate_table("v", suite.head_dim).array("weight"))
    assert weights.shape == (4, 2, 64)
    assert weights.max() == 1
    assert weights.min() > 0
    name = found.allocate_table("v", suite.head_dim).name
    assert suite.measure(Strategy.parse(f"raw/allocate:centibits=200,table={name}+rans")).relative < 1


def test_weights_by_hand() -> None:
    side = SideSensitivity(0.1, [0.1], [[0.04, 0.01, 0.0]], [[1.0, 1.0, 1.0]])
    made = Sensitivity("x", "suite", "model", side, side)
    assert np.allclose(np.asarray(made.allocate_table("k", 2).array("weight")), [[[1, 1], [0.5, 0.5], [1e-3] * 2]])
    nothing = SideSensitivity(0, [0], [[0.0, 0.0]], [[0.0, 0.0]])
    with pytest.raises(ConfigError, match="take a coarser one"):
        Sensitivity("raw", "suite", "model", nothing, nothing).allocate_table("v", 2)


def test_steps_by_hand() -> None:
    weights = np.asarray(steps([0.16, 0.01, 0.0], [1.0, 1.0, 4.0], "model").array("weight"))
    assert weights[1] / weights[0] == pytest.approx(16**0.375)
    assert weights[2] / weights[0] == pytest.approx(100**0.375)  # no more, whatever was lost
    assert np.log(weights).sum() == pytest.approx(0, abs=1e-6)
    assert np.array_equal(np.asarray(steps([0.0, 0.0], [0.0, 1.0], "model").array("weight")), [1, 1])


def test_layers_that_lose_less_get_wider_steps(suite: Suite, found: Sensitivity) -> None:
    for side in ("k", "v"):
        weights = np.asarray(found.deadzone_table(side).array("weight"))
        assert weights.shape == (4,)
        assert weights.min() < 1 < weights.max()
    name = found.deadzone_table("v").name
    assert suite.measure(Strategy.parse(f"raw/deadzone:step=200,table={name}+rans")).relative < 1
    losses, errors = layers_alone(suite, ROUGH, "v")
    assert losses == found.v.layers
    assert np.allclose(errors, np.mean(found.v.errors, axis=1))


def test_another_architecture_runs_unchanged(tmp_path: Path) -> None:
    suite = Suite.of(models.save(models.qwen2(), tmp_path), lengths=(200,), prompts=1)
    made = measure(suite, ROUGH)
    assert np.shape(made.k.heads) == (2, 2)
    assert max(made.k.whole, made.v.whole) > 0
    assert measure(suite, ROUGH) == made
