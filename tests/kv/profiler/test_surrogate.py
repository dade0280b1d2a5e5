import numpy as np
import pytest

from tightwire.kv.profiler.improvement import Improvement, chance, to_quality, to_y
from tightwire.kv.profiler.pareto import hypervolume
from tightwire.kv.profiler.space import Space
from tightwire.kv.profiler.surrogate import Hyper, Inputs, Process, fit
from tightwire.kv.strategy import RAW, Strategy


def inputs(x: np.ndarray) -> Inputs:
    return Inputs(x, np.arange(x.shape[1]), np.ones((1, x.shape[1])), (1.0,), np.zeros((len(x), 0)))


def test_a_process_passes_through_what_it_saw_and_is_unsure_elsewhere() -> None:
    x = np.linspace(0, 4, 9)[:, None]
    process = Process(inputs(x), np.sin(x[:, 0]), Hyper((1.0,), 1e-6), np.ones(9))
    mean, deviation = process.predict(inputs(x))
    assert mean == pytest.approx(np.sin(x[:, 0]), abs=1e-3)
    far_mean, far = process.predict(inputs(np.array([[40.0]])))
    assert far[0] > 20 * deviation.max()
    assert far_mean[0] == pytest.approx(np.sin(x[:, 0]).mean(), abs=1e-3)


def test_fit_finds_which_input_matters() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (80, 2))
    process = fit(inputs(x), np.sin(2 * x[:, 0]), np.ones(80))
    assert process.hyper.lengths[1] > process.hyper.lengths[0]
    at = rng.uniform(-2, 2, (50, 2))
    assert process.predict(inputs(at))[0] == pytest.approx(np.sin(2 * at[:, 0]), abs=0.1)


def test_observing_the_mean_is_what_a_new_fit_would_give() -> None:
    rng = np.random.default_rng(1)
    x, at = rng.normal(size=(12, 2)), rng.normal(size=(20, 2))
    y, hyper = rng.normal(size=12), Hyper((1.0, 2.0), 0.05)
    old = Process(inputs(x), y, hyper, np.ones(12))
    belief = old.believe(inputs(at))
    mean = belief.mean.copy()
    belief.observe(3)
    more = Process(inputs(np.vstack([x, at[3]])), np.append(y, mean[3]), hyper, np.ones(13))
    _, deviation = more.predict(inputs(at))
    assert belief.mean == pytest.approx(mean)
    assert belief.deviation / np.sqrt(old.amplitude2) == pytest.approx(deviation / np.sqrt(more.amplitude2), abs=1e-5)


def test_loose_observations_count_less() -> None:
    x = np.zeros((2, 1))
    process = Process(inputs(x), np.array([0.0, 1.0]), Hyper((1.0,), 0.1), np.array([1.0, 50.0]))
    assert process.predict(inputs(x[:1]))[0][0] < 0.2


def test_y_and_quality_are_inverse() -> None:
    quality = np.array([0.5, 0.9, 0.99, 0.9999, 1.0])
    assert to_quality(to_y(quality)) == pytest.approx(quality)


def test_chance_is_the_normal_distribution() -> None:
    y = to_y(np.array([0.99]))
    assert chance(0.01, y, np.ones(1))[0] == pytest.approx(0.5, abs=1e-6)
    assert chance(0.01, y - 1.0, np.ones(1))[0] == pytest.approx(0.8413447, abs=1e-5)


def test_expected_volume_of_a_sure_point_is_what_it_adds() -> None:
    texts = ["uniform:levels=4+rans", "uniform:levels=4+pack", "uniform:levels=8+rans", "uniform:levels=8+pack"]
    space = Space([RAW, *map(Strategy.parse, texts)])
    gains = np.array([[0, 1, 1], [0.8, 0.3, 1], [0.7, 0.6, 1], [0.5, 0.4, 1], [0.4, 0.9, 1]], float)
    improvement = Improvement(space, gains, np.log(np.array([1, 8, 7, 5, 4.0])), (0.99,))
    known, quality = np.array([1.0, np.nan, 0.99]), np.array([1.0, 0.95, 0.99])
    added = improvement.volume(known, to_y(quality), np.full(3, 1e-6))
    scaled = gains * np.array([1, 1, 0]) + np.array([0, 0, 1]) * ((quality[space.point] - 0.9) / 0.1)[:, None]
    found = hypervolume(scaled[[0, 3, 4]])
    assert added[1] == pytest.approx(hypervolume(scaled) - found, abs=0.05)  # levels of quality are steps
    assert added[2] == pytest.approx(0, abs=1e-9)
    sure = improvement.ratio(known, to_y(np.array([1.0, 0.995, 0.99])), np.full(3, 1e-6))
    assert sure[1] == pytest.approx(np.log(8 / 5))
    assert improvement.ratio(known, to_y(quality), np.full(3, 1e-6))[1] == pytest.approx(0)
