import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightwire.kv.control.latency import break_even_bytes_per_s, model
from tightwire.kv.profiles import Profile

SECONDS = st.floats(0.0, 10.0)


def simulated(n: int, compute_s: float, encode_s: float, wire_s: float, decode_s: float, queued_s: float) -> float:
    """The tandem queue chunk by chunk: a stage takes a chunk when it has it and is free."""
    free = [0.0, 0.0, queued_s, 0.0]
    for _ in range(n):
        ready = 0.0
        for stage, seconds in enumerate((compute_s, encode_s, wire_s, decode_s)):
            ready = free[stage] = max(ready, free[stage]) + seconds / n
    return free[-1]


@given(st.integers(1, 40), SECONDS, SECONDS, SECONDS, SECONDS, SECONDS)
def test_the_closed_form_is_the_tandem_queue(n: int, c: float, e: float, w: float, d: float, q: float) -> None:
    assert model(n, c, q)(e, w, d) == pytest.approx(simulated(n, c, e, w, d, q), abs=1e-9)


@given(st.integers(1, 40), SECONDS, SECONDS, SECONDS, SECONDS)
def test_without_a_core_of_its_own_the_encoder_is_part_of_compute(n: int, c: float, e: float, w: float, d: float) -> None:
    assert model(n, c, one_core=True)(e, w, d) == pytest.approx(simulated(n, c + e, 0.0, w, d, 0.0), abs=1e-9)


def test_prefill_hides_what_is_faster_than_it() -> None:
    hidden = model(10, compute_s=10.0)(1.0, 5.0, 1.0) - 10.0
    assert hidden == pytest.approx(0.7)


def test_break_even() -> None:
    raw, four = Profile("raw", 1.0, 5e9, 5e9, 1.0), Profile("uniform:levels=16+pack", 3.5, 2e9, 1e9, 1.0)
    assert break_even_bytes_per_s(four, raw) == 1e9
    assert break_even_bytes_per_s(raw, raw) == float("inf")
