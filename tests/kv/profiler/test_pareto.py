import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tightwire.kv.profiler.pareto import Scale, Staircase, front, hypervolume

GRID = 5
points = st.integers(0, 12).flatmap(lambda n: arrays(np.int64, (n, 3), elements=st.integers(0, GRID)))


def cells(whole: np.ndarray) -> float:
    """The hypervolume of points on a grid by counting its cells."""
    covered = np.zeros((GRID, GRID, GRID), bool)
    for x, y, z in whole:
        covered[:x, :y, :z] = True
    return covered.sum() / GRID**3


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a >= b).all() and (a > b).any())


@given(points)
def test_hypervolume_is_that_of_the_cells_below(whole: np.ndarray) -> None:
    assert hypervolume(whole / GRID) == pytest.approx(cells(whole), abs=1e-12)


@given(points)
def test_front_is_what_nothing_dominates(whole: np.ndarray) -> None:
    found = front(whole / GRID)
    assert len({tuple(whole[i]) for i in found}) == len(found)
    free = {tuple(p) for p in whole if not any(dominates(other, p) for other in whole)}
    inside = {p for p in free if p[0] or p[1]}
    assert inside <= {tuple(whole[i]) for i in found} <= free


@given(points)
def test_the_front_alone_has_the_whole_volume(whole: np.ndarray) -> None:
    gains = whole / GRID
    assert hypervolume(gains[front(gains)]) == pytest.approx(hypervolume(gains), abs=1e-12)


@given(points, points)
def test_staircase_tells_what_a_point_adds(whole: np.ndarray, more: np.ndarray) -> None:
    stairs = Staircase()
    for x, y, _ in whole / GRID:
        stairs.add(float(x), float(y))
    plane = np.zeros((GRID, GRID), bool)
    for x, y, _ in whole:
        plane[:x, :y] = True
    assert stairs.area == pytest.approx(plane.sum() / GRID**2, abs=1e-12)
    added = stairs.missing(more[:, 0] / GRID, more[:, 1] / GRID)
    expected = [(~plane[:x, :y]).sum() / GRID**2 for x, y, _ in more]
    assert added == pytest.approx(np.array(expected), abs=1e-12)


def test_gains_are_one_at_the_best_and_zero_at_the_reference() -> None:
    ratio, time_s, quality = np.array([1.0, 4, 16]), np.array([1.0, 10, 100]), np.array([1.0, 0.95, 0.5])
    gains = Scale.of(ratio, time_s).gains(ratio, time_s, quality)
    assert gains == pytest.approx(np.array([[0, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0]]))


def test_gains_of_a_space_in_which_all_take_the_same_time() -> None:
    one = np.ones(2)
    assert np.isfinite(Scale.of(2 * one, one).gains(2 * one, one, one)).all()
