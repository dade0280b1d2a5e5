import random

import pytest

from tightwire.net.estimator import LinkEstimator


def fed(rates: list[float], noise: float = 0.0, size: int = 10_000_000) -> LinkEstimator:
    rng, link = random.Random(3), LinkEstimator()
    for rate in rates:
        link.observe(size, size / rate * (1 + rng.uniform(-noise, noise)))
    return link


def speed(link: LinkEstimator) -> float:
    estimate = link.estimate()
    assert estimate is not None
    return estimate.bytes_per_s


@pytest.mark.parametrize("factor", [0.1, 0.5, 2.0, 10.0])
def test_a_step_is_known_after_one_transfer(factor: float) -> None:
    link = fed([1e8] * 20, noise=0.05)
    link.observe(10_000_000, 0.1 / factor)
    assert speed(link) == pytest.approx(1e8 * factor, rel=0.02)


def test_one_outlier_is_forgotten_again() -> None:
    link = fed([1e8] * 10)
    link.observe(10_000_000, 1.0)
    link.observe(10_000_000, 0.1)
    assert speed(link) == pytest.approx(1e8, rel=0.02)


def test_noise_is_averaged_and_a_ramp_is_followed() -> None:
    assert speed(fed([1e8] * 40, noise=0.15)) == pytest.approx(1e8, rel=0.1)
    ramp = [1e8 * 1.03**step for step in range(30)]
    assert speed(fed(ramp)) == pytest.approx(ramp[-1], rel=0.12)


def test_small_transfers_are_no_evidence_of_a_jump() -> None:
    link = fed([1e6] * 10)
    link.observe(20_000, 1e-4)  # a buffer took it
    assert speed(link) == pytest.approx(1e6, rel=0.02)


def test_distrust_lets_the_next_observation_decide() -> None:
    link = fed([1e8] * 10)
    link.distrust()
    assert speed(link) == pytest.approx(1e8)
    link.observe(10_000_000, 0.11)
    assert speed(link) == pytest.approx(10_000_000 / 0.11)
    LinkEstimator().distrust()


def test_nothing_teaches_nothing_and_the_least_round_trip_is_the_latency() -> None:
    link = LinkEstimator()
    link.observe(0, 1.0)
    link.observe(5, 0.0)
    assert link.estimate() is None
    link.observe(10_000_000, 1.0)
    for seconds in (0.3, 0.2, 0.4):
        link.observe_round_trip(seconds)
    estimate = link.estimate()
    assert estimate is not None
    assert (estimate.latency_s, estimate.observations) == (0.1, 1)


def test_each_direction_of_a_jump_has_its_own_chance() -> None:
    """A link that is free for one transfer and taken for four: from free it will likely fall, from taken it will stay."""
    estimator = LinkEstimator()
    for _ in range(60):
        estimator.observe(10_000_000, 0.01)
        for _ in range(4):
            estimator.observe(10_000_000, 0.1)
    taken = estimator.estimate()
    estimator.observe(10_000_000, 0.01)
    free = estimator.estimate()
    assert taken is not None
    assert free is not None
    assert free.jump_chance > 0.8
    assert 0.1 < taken.jump_chance < 0.5


def test_what_is_over_at_once_where_it_would_have_taken_long_is_a_jump() -> None:
    link = fed([2.5e6] * 10, size=250_000)
    link.observe(250_000, 0.0005)  # an error of the clocks of 1 ms does not make 0.1 s of it
    assert speed(link) == pytest.approx(5e8, rel=0.02)
    link = fed([2e8] * 10, size=400_000)
    link.observe(400_000, 0.0005)  # of 2 ms it may
    assert speed(link) < 4e8


def test_a_fast_link_that_becomes_faster_is_no_sign_that_it_will_be_slow_again() -> None:
    rising = fed([2.5e6] * 5 + [1e8, 3e8, 9e8]).estimate()
    falling = fed([2.5e6] * 5 + [9e8, 2.5e6, 2.5e6, 9e8]).estimate()
    assert rising is not None
    assert falling is not None
    assert rising.jump_chance == 0
    assert falling.jump_chance > 0
