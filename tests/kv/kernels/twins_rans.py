"""Triton's entropy coder and lossless bf16 equal `kernels.rans` and the stage. Run by test_triton.py, in Triton's
interpreter and on a GPU. The interpreter takes milliseconds a step, so most tests make runs and their bounds smaller, for both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tightwire.errors import FrameError
from tightwire.kv.kernels import native
from tightwire.kv.kernels import rans as reference
from tightwire.kv.kernels.triton import lossless, rans
from tightwire.kv.kernels.triton.runs import Runs

from .device import HERE

small = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 128 symbols; 64 lanes for as many."""
    monkeypatch.setattr(reference, "RUN_SYMBOLS", 128)
    monkeypatch.setattr(reference, "MANY_SYMBOLS", 128)


def some_symbols(rng: np.random.Generator, levels: np.ndarray, count: int) -> np.ndarray:
    skew = rng.choice([0.3, 1, 5])
    return np.stack([(rng.random(count) ** skew * int(each)).astype(np.uint8) for each in levels])


def static_tables(levels: np.ndarray) -> dict[int, np.ndarray]:
    return {
        each: reference.normalise(np.where(np.arange(256) < each, 1 + 9 * (np.arange(256) < 3), 0))
        for each in map(int, np.unique(levels))
    }


def tables_of(held: dict[int, np.ndarray]) -> native.Tables:
    return native.Tables(np.array(list(held), np.uint16), np.stack(list(held.values())))


def decoded(data: bytes | np.ndarray, runs: Runs) -> np.ndarray:
    here = np.frombuffer(data, np.uint8)
    return rans.decode(here, torch.from_numpy(here.copy()).to(HERE), runs).cpu().numpy()


@settings(small, max_examples=16)
@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from([32, 90, 300]), st.booleans())
@pytest.mark.usefixtures("small_runs")
def test_streams_equal_the_reference(seed: int, segments: int, count: int, static: bool) -> None:
    """One run and several, the last of few lanes or of many, steps that are not full."""
    rng = np.random.default_rng(seed)
    levels = rng.choice(np.array([2, 5, 12, 16, 17, 256], np.uint16), segments)
    symbols = some_symbols(rng, levels, count)
    held = static_tables(levels) if static else None
    runs = Runs(levels, count, tables_of(held) if held else native.OWN, HERE)
    stream = rans.encode(torch.from_numpy(symbols).to(HERE), runs).cpu().numpy().tobytes()
    assert stream == reference.encode(symbols, levels, held)
    np.testing.assert_array_equal(decoded(stream, runs), symbols)


def test_runs_of_the_format_as_it_is() -> None:
    """64 lanes, as native writes it: 16,400 symbols, of which the last 16 do not fill a step."""
    levels = np.array([12], np.uint16)
    symbols = some_symbols(np.random.default_rng(1), levels, reference.MANY_SYMBOLS + 16)
    runs = Runs(levels, symbols.shape[1], native.OWN, HERE)
    stream = rans.encode(torch.from_numpy(symbols).to(HERE), runs).cpu().numpy().tobytes()
    assert stream == b"".join(native.rans_encode(symbols, levels))
    np.testing.assert_array_equal(decoded(stream, runs), symbols)


@settings(small, max_examples=30)
@given(st.data())
@pytest.mark.usefixtures("small_runs")
def test_a_damaged_stream_is_refused_or_decodes_to_symbols(draw: st.DataObject) -> None:
    count = draw.draw(st.sampled_from([24, 100]))
    levels = np.array([3, 12], np.uint16)
    symbols = some_symbols(np.random.default_rng(0), levels, count)
    stream = bytearray(reference.encode(symbols, levels))
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, len(stream) - 1))
        stream[at] ^= draw.draw(st.integers(1, 255))
    damaged = bytes(stream[: draw.draw(st.integers(0, len(stream)) | st.just(len(stream)))])
    results = []
    for decode in (
        lambda: decoded(damaged, Runs(levels, count, native.OWN, HERE)),
        lambda: reference.decode(memoryview(damaged), levels, count),
    ):
        try:
            results.append(decode().tobytes())
        except FrameError as error:
            results.append(str(error))
    assert results[0] == results[1]


@pytest.mark.usefixtures("small_runs")
def test_what_is_wrong_with_words_is_told_apart() -> None:
    levels = np.array([12], np.uint16)
    stream = reference.encode(some_symbols(np.random.default_rng(3), levels, 300), levels)
    words = 4 + 2 + (int(stream[5]) - int(stream[4])) * 12 // 8 + 1  # sizes, first and last symbol, frequencies
    assert (len(stream) - words) % 2 == 0
    for damaged, wrong in (
        (stream[4:words] + stream[words + 2 :], "ends too early"),
        (stream[4:words] + b"ab" + stream[words:], "holds more than its symbols"),
        (stream[4:words] + stream[words + 1 :], "too short"),
        (stream[4:words] + b"ab" + stream[words + 2 :], "does not end where it began"),
    ):
        with pytest.raises(FrameError, match=wrong):
            decoded(len(damaged).to_bytes(4, "little") + damaged, Runs(levels, 300, native.OWN, HERE))


def test_counting_is_exact() -> None:
    """Symbols that fill no tile, tables that segments share."""
    rng = np.random.default_rng(2)
    levels = np.array([5, 256, 5], np.uint16)
    symbols = some_symbols(rng, levels, rans.TILE + 77)
    found = rans.count(torch.from_numpy(symbols).to(HERE), Runs(levels, symbols.shape[1], native.OWN, HERE))
    for row, each in zip(found, (5, 256), strict=True):
        np.testing.assert_array_equal(row, np.bincount(symbols[levels == each].reshape(-1), minlength=256))


def test_unusable_static_tables_are_refused() -> None:
    held = static_tables(np.array([5]))
    for change in (lambda f: f[0] - 1, lambda f: f[0] + f[4]):
        frequencies = tables_of(held).frequencies.copy()
        frequencies[0, 0] = change(frequencies[0])
        if frequencies[0].sum() > reference.PROBS:
            frequencies[0, 4] = 0
        with pytest.raises(ValueError, match="static frequencies"):
            Runs(np.array([5], np.uint16), 64, native.Tables(np.array([5], np.uint16), frequencies), HERE)
    with pytest.raises(ValueError, match="no static table"):
        Runs(np.array([6], np.uint16), 64, tables_of(held), HERE)


def test_splitting_exponents_is_exact_for_every_pattern() -> None:
    bits = np.arange(65536, dtype=np.uint16).reshape(2, 512, 64)
    x = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).to(HERE)
    exponents, rest = lossless.split(x)
    np.testing.assert_array_equal(exponents.cpu().numpy(), (bits >> 7 & 0xFF).reshape(2, -1))
    np.testing.assert_array_equal(rest.cpu().numpy(), (bits & 0x7F | bits >> 15 << 7).reshape(2, -1))
    back = torch.empty_like(x)
    lossless.merge(exponents, rest, back)
    np.testing.assert_array_equal(back.view(torch.int16).cpu().numpy(), bits.view(np.int16))
