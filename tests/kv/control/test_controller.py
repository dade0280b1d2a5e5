import pytest

from tightwire.errors import ConfigError
from tightwire.kv.control.controller import Controller
from tightwire.kv.control.latency import predict
from tightwire.kv.profiles import Profile, ProfileLibrary
from tightwire.net.estimator import LinkEstimate

RAW = Profile("raw", 1.0, 5e9, 5e9, 1.0)
FOUR = Profile("hadamard+uniform:levels=16+pack", 3.55, 2e9, 2e9, 0.99)
ROUGH = Profile("uniform:levels=4+zstd", 9.0, 2e9, 2e9, 0.5)
LIBRARY = ProfileLibrary("m", [RAW, FOUR, ROUGH], {})


def link(bytes_per_s: float) -> LinkEstimate:
    return LinkEstimate(bytes_per_s, 1e-4, 3)


def test_slow_link_compresses_fast_link_does_not_and_quality_is_kept() -> None:
    controller = Controller(LIBRARY, quality_budget=0.97)
    slow = controller.decide(10_000_000, 8, link(1e6))
    assert slow.chosen == FOUR.strategy
    assert "second" in slow.reason
    assert next(c for c in slow.candidates if c.strategy == ROUGH.strategy).refused is not None
    assert controller.decide(10_000_000, 8, link(1e10)).chosen == "raw"
    assert controller.decide(10_000_000, 8, None).chosen == "raw"


def test_the_model_overlaps_stages() -> None:
    p = predict(FOUR, 8_000_000, 8, link(1e6))
    slowest = max(p.encode_s, p.wire_s, p.decode_s)
    assert slowest < p.total_s < p.encode_s + p.wire_s + p.decode_s + 0.01
    assert p.wire_s == pytest.approx(8 / 3.55)


def test_a_wrong_profile_is_corrected_by_observation() -> None:
    controller = Controller(ProfileLibrary("m", [RAW, Profile(FOUR.strategy, 3.55, 50e9, 50e9, 1.0)], {}))
    decisions = 0
    while (decision := controller.decide(10_000_000, 8, link(3e8))).chosen != "raw":
        controller.observe(decision, 0.08)  # it is an encoder of 125 MB/s in truth
        decisions += 1
        assert decisions < 20
    assert 0 < decisions < 20


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="quality_budget"):
        Controller(LIBRARY, 1.5)
    with pytest.raises(ConfigError, match="ratio"):
        Profile("raw", 0.0, 1.0, 1.0, 1.0)
    with pytest.raises(ConfigError, match="raw once"):
        ProfileLibrary("m", [FOUR], {})
