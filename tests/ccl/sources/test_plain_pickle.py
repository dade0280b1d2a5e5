"""The pickle reader builds plain data, refuses everything else, and never raises anything but its own error."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightwire.ccl.sources.flight_recorder.dump import parse
from tightwire.ccl.sources.flight_recorder.plain_pickle import MOST_DEPTH, DumpError, loads

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text()
PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(-(2**63), 2**63 - 1), inner)
    ),
    max_leaves=20,
)


@given(PLAIN, st.sampled_from([2, 3, 4, 5]))
def test_reads_what_pickle_writes(value: object, protocol: int) -> None:
    assert loads(pickle.dumps(value, protocol)) == (value, True)


@given(st.binary(max_size=400))
def test_any_bytes_give_data_or_our_error(data: bytes) -> None:
    with contextlib.suppress(DumpError):
        parse(data)


@given(st.data())
def test_a_changed_dump_gives_data_or_our_error(data: st.DataObject) -> None:
    raw = bytearray(pickle.dumps({"entries": [{"process_group": ("0", "dp"), "profiling_name": "nccl:all_reduce"}]}, 2))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DumpError):
        parse(bytes(raw))


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_malicious_pickle_executes_nothing_and_is_named(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"entries": Malicious(tmp_path / "made")}, protocol)
    with pytest.raises(DumpError, match="mkdir" if protocol > 1 else "mkdir|opcode"):
        parse(data)
    assert not (tmp_path / "made").exists()
    pickle.loads(data)
    assert (tmp_path / "made").exists()  # it would have


def test_a_file_that_ends_early_gives_what_stands_in_it() -> None:
    entries = [
        {"record_id": n, "process_group": ("0", "dp"), "profiling_name": "nccl:all_reduce", "state": "completed"}
        for n in range(9)
    ]
    data = pickle.dumps({"version": "2.4", "entries": entries}, 2)
    dump = parse(data[: len(data) * 2 // 3])
    assert not dump.whole
    assert 0 < len(dump.entries) < 9


def test_depth_and_memo_are_bounded() -> None:
    with pytest.raises(DumpError, match="deeper"):
        loads(b"]" + b"(" * (MOST_DEPTH + 1))
    assert loads(b"\x80\x02Nr\xff\xff\xff\x7f.") == (None, True)  # an index is no size
