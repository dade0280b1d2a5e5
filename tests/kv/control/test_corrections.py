import pytest

from tightwire.kv.control.corrections import FixedCost, Ratio, StageSpeed


def test_a_slow_machine_is_learnt_for_strategies_that_never_ran() -> None:
    speed = StageSpeed(["pack", "zstd", "zstd"])
    for _ in range(4):
        speed.observe(0, 0.4, 0.1)
        speed.observe(1, 0.4, 0.1)
    assert speed.factor[0] == pytest.approx(4, rel=0.1)
    assert speed.factor[2] > 2.5  # never ran


def test_a_slow_family_is_no_slow_machine() -> None:
    speed = StageSpeed(["pack", "zstd", "zstd", "rans"])
    for _ in range(6):
        speed.observe(0, 0.1, 0.1)
        speed.observe(1, 0.4, 0.1)
    assert speed.factor[0] == pytest.approx(1, rel=0.15)
    assert speed.factor[2] > 2
    assert speed.factor[3] < 2
    known, unknown = (speed.optimistic[i] / speed.factor[i] for i in (0, 3))
    assert unknown < 0.5 < 0.85 < known  # what never ran may be anything


def test_a_change_is_believed_soon_and_noise_is_not() -> None:
    speed = StageSpeed(["pack"])
    for _ in range(200):
        speed.observe(0, 0.1, 0.1)
    speed.observe(0, 0.11, 0.1)
    assert speed.factor[0] < 1.05
    for _ in range(3):
        speed.observe(0, 0.4, 0.1)
    assert speed.factor[0] == pytest.approx(4, rel=0.1)


def test_stages_too_short_to_time_teach_little() -> None:
    speed = StageSpeed(["raw"])
    speed.observe(0, 1e-5, 1e-7)
    speed.observe(0, 0.0, 1.0)
    assert speed.factor[0] < 1.05


def test_fixed_cost_and_ratio_follow_without_jumping() -> None:
    fixed, ratio = FixedCost(), Ratio([4.0])
    for _ in range(60):
        fixed.observe(0.105, 0.1)
        ratio.observe(0, 5.0)
    fixed.observe(5.0, 0.1)
    assert fixed.seconds == pytest.approx(0.005, abs=0.002)
    assert ratio.value[0] == pytest.approx(5.0, rel=0.01)
