"""The figures by hand."""

import math

import msgspec
import numpy as np
import pytest

from tightwire.kv.quality.record import Quality, Scores, Summary

CELLS = [("text", 64), ("text", 64), ("lookup", 64), ("lookup", 64), ("copy", 64), ("copy", 64)]


def scores(**changes: list[float]) -> Scores:
    plain: dict[str, list[float]] = {
        "positions": [16, 16, 1, 1, 8, 8], "kl": [0] * 6, "raw_nats": [32, 48, 0.1, 0.1, 1, 1],
        "nats": [32, 48, 0.1, 0.1, 1, 1], "agree": [16, 16, 1, 1, 8, 8], "raw_right": [0, 0, 1, 1, 1, 0],
        "right": [0, 0, 1, 1, 1, 0],
    }  # fmt: skip
    return Scores(**{name: np.array(values, float) for name, values in (plain | changes).items()})


def test_raw_is_one_without_doubt() -> None:
    quality = Summary(CELLS, 0).quality("raw", scores())
    assert (quality.relative, quality.relative_ci) == (1.0, (1.0, 1.0))
    assert quality.perplexity.value == quality.agreement.value == 1
    assert [(c.task, c.raw, c.strategy) for c in quality.exact] == [("lookup", 1, 1), ("copy", 0.5, 0.5)]


def test_the_definitions() -> None:
    halved = math.log(2)
    quality = Summary(CELLS, 0).quality(
        "x", scores(kl=[16 * halved, 0, halved, 0, 0, 0], nats=[40, 48, 0.1, 0.1, 1, 1], agree=[8, 16, 0, 1, 8, 8],
                    right=[0, 0, 0, 1, 1, 0])
    )  # fmt: skip
    # text: (1/2 + 1) / 2, per token; lookup: (1/2 + 1) / 2, per answer; copy: 1
    assert quality.relative == pytest.approx((0.75 + 0.75 + 1) / 3)
    assert quality.kl.value == pytest.approx(17 * halved / 50)
    assert quality.perplexity.value == pytest.approx(math.exp(8 / 32))
    assert quality.agreement.value == pytest.approx(41 / 50)
    lookup, copy = quality.exact
    assert (lookup.raw, lookup.strategy) == (1.0, 0.5)
    assert lookup.relative is not None
    assert lookup.relative.value == 0.5
    assert copy.relative is not None
    assert copy.relative.value == 1.0
    low, high = quality.relative_ci
    assert 0.5 < low < quality.relative < high <= 1


def test_an_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    cells, truth, covered = [("text", 64), *[("lookup", 64)] * 40], (1 + 0.6) / 2, 0
    for seed in range(200):
        kl = np.append(0, -np.log(rng.beta(6, 4, 40)))
        zeros, ones = np.zeros(41), np.ones(41)
        low, high = Summary(cells, seed).quality("x", Scores(ones, kl, zeros, zeros, ones, ones, ones)).relative_ci
        covered += low <= truth <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_where_raw_is_never_right_there_is_no_share() -> None:
    quality = Summary(CELLS, 0).quality("x", scores(raw_right=[0] * 6, right=[0, 0, 1, 0, 0, 0]))
    assert [cell.relative for cell in quality.exact] == [None, None]


def test_records_round_trip() -> None:
    quality = Summary(CELLS, 0).quality("x", scores(kl=[0.1] * 6))
    assert msgspec.json.decode(msgspec.json.encode(quality), type=Quality) == quality
