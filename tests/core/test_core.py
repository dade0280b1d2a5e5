import pytest

from tightwire.core.clock import FakeClock
from tightwire.core.registry import Registry
from tightwire.core.units import (
    format_rate,
    format_size,
    format_time,
    parse_rate_bytes_per_s,
    parse_size_bytes,
    parse_time_s,
)
from tightwire.errors import ConfigError


def test_bits_are_not_bytes_and_gb_is_not_gib() -> None:
    assert parse_rate_bytes_per_s("25gbit") == 3.125e9
    assert parse_rate_bytes_per_s("3 MB/s") == 3e6
    assert parse_size_bytes("64MiB") == 64 * 2**20
    assert parse_size_bytes("1GB") == 10**9
    assert parse_time_s("500ms") == 0.5


@pytest.mark.parametrize("text", ["25", "gbit", "-1gbit", "1e9bit", "25 gbut", "", "0gbit"])
def test_a_wrong_rate_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="gbit"):
        parse_rate_bytes_per_s(text)


def test_formats() -> None:
    assert format_rate(3.125e9) == "25 Gbit/s"
    assert format_size(1.5e6) == "1.50 MB"
    assert format_time(0.0123) == "12.3 ms"


def test_registry_refuses_duplicates_and_unknown_names() -> None:
    registry: Registry[int] = Registry("thing")
    registry.add("pack", 1)
    with pytest.raises(ConfigError, match="registered twice"):
        registry.add("pack", 2)
    with pytest.raises(ConfigError, match="did you mean 'pack'"):
        registry["pakc"]


def test_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock(5.0)
    clock.sleep_s(2.0)
    assert clock.now_s() == 7.0
