import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kv.strategies import strategies
from tightwire.errors import ConfigError, StrategyError, TightwireError
from tightwire.kv.strategy import RAW, Strategy, enumerate_chains


@given(strategies)
def test_text_short_text_and_json_are_the_same_strategy(strategy: Strategy) -> None:
    assert Strategy.parse(str(strategy)) == strategy
    assert Strategy.parse(strategy.short) == strategy
    assert Strategy.from_json(strategy.to_json()) == strategy


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_position(text: str) -> None:
    try:
        Strategy.parse(text)
    except StrategyError as error:
        assert 0 <= error.position <= len(text)


@pytest.mark.parametrize(
    ("text", "position", "allowed"),
    [
        ("hadamar+pack", 0, "hadamard"),
        ("uniform:levels=17x+pack", 15, "a whole number"),
        ("uniform:axis=foo+pack", 13, "token"),
        ("uniform:level=16+pack", 8, "levels="),
        ("hadamard", 8, "+uniform"),
        ("hadamard+pack", 9, "uniform"),
        ("raw+pack", 3, "end of text"),
        ("raw/", 4, "raw"),
        ("", 0, "raw"),
    ],
)
def test_a_wrong_strategy_is_answered_with_where_and_what(text: str, position: int, allowed: str) -> None:
    with pytest.raises(StrategyError) as caught:
        Strategy.parse(text)
    assert caught.value.position == position
    assert allowed in caught.value.allowed


def test_out_of_range_settings_are_named() -> None:
    with pytest.raises(StrategyError, match="levels=1 is out of range"):
        Strategy.parse("uniform:levels=1+pack")
    with pytest.raises(StrategyError, match="given twice"):
        Strategy.parse("uniform:levels=4,levels=8+pack")
    with pytest.raises(StrategyError, match="limit"):
        Strategy.parse("raw" * 1000)


@pytest.mark.parametrize(
    "data",
    [{}, {"k": [], "v": []}, {"k": [{"stage": "raw"}]}, {"k": [{"stage": "raw", "x": 1}], "v": [{"stage": "raw"}]}],
)
def test_wrong_json_is_refused(data: dict) -> None:
    with pytest.raises((ConfigError, TightwireError)):
        Strategy.from_json(data)


def test_raw_and_the_space() -> None:
    assert Strategy.parse("raw").is_raw
    assert str(RAW) == "raw"
    chains = list(enumerate_chains())
    assert len(set(chains)) == len(chains) > 100
