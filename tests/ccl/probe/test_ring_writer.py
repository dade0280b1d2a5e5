"""The native writer and its Python twin leave the same ring behind; the reader refuses what is none."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightwire import _ring
from tightwire.ccl.probe import ring_writer
from tightwire.ccl.probe.ring import read_records, read_state
from tightwire.errors import ConfigError

U64 = st.integers(0, 2**64 - 1)
CALLS = st.lists(st.tuples(st.booleans(), st.integers(0, 2), U64, st.integers(0, 20), U64, st.booleans()), max_size=40)


def play(make: Any, path: Path, calls: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    writer = make(str(path), 16, 3, 4, 77, 99)
    slots = [writer.add_group(group) for group in (5, 6, 7)]
    for entering, which, seq, op, size, failed in calls:
        if entering:
            writer.entered(slots[which], which + 5, seq, op, size, 1, 9, 0)
        else:
            writer.done(slots[which], which + 5, seq, op, failed)
    writer.goodbye(1)
    records, lost = read_records(path)
    fields = [name for name in records.dtype.names or () if name != "time_ns"]
    state = read_state(path)
    frames = [(f.group, f.entered_seq, f.done_count, f.op, f.failed) for f in state.frames]
    head = (state.rank, state.world, state.pid, state.pid_start, state.goodbye, state.written)
    return head, frames, [tuple(int(r[name]) for name in fields) for r in records], lost


@settings(max_examples=40, deadline=None)
@given(CALLS)
def test_the_twins_write_the_same(calls: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        native = play(_ring.Writer, Path(name) / "native", calls)
        assert native == play(ring_writer.Writer, Path(name) / "python", calls)
        assert native[3] == max(len(calls) - 16, 0)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "ring"
        path.write_bytes(data)
        for read in (read_state, read_records):
            with pytest.raises(ConfigError, match="ring"):
                read(path)
