import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightwire import _ring
from tightwire.ccl.agent import Agent
from tightwire.ccl.probe import process
from tightwire.ccl.probe.ring import read_records, read_state
from tightwire.core.clock import FakeClock
from tightwire.core.events import OPERATION_CODES, OPERATIONS, group_fingerprint, operation
from tightwire.errors import ConfigError


def make(path: Path, capacity: int = 8) -> _ring.Writer:
    return _ring.Writer(str(path), capacity, 3, 4, os.getpid(), process.start_ticks(os.getpid()))


def test_what_is_written_is_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "rank-3.ring"
    writer = make(path)
    slot = writer.add_group(77)
    for seq in range(1, 21):
        writer.entered(slot, 77, seq, OPERATION_CODES["barrier"], 40, 1, 9, 2)
        if seq < 20:
            writer.done(slot, 77, seq, OPERATION_CODES["barrier"], seq == 5)
    state = read_state(path)
    assert (state.rank, state.world, state.pid, state.goodbye, state.written) == (3, 4, os.getpid(), 0, 39)
    (frame,) = state.frames
    assert (frame.group, frame.entered_seq, frame.done_count, frame.failed) == (77, 20, 19, 1)
    records, lost = read_records(path)
    assert (len(records), lost) == (8, 31)
    assert [int(r["seq"]) for r in records] == [16, 17, 17, 18, 18, 19, 19, 20]
    assert operation(int(records[-1]["op"])) == "barrier"
    writer.goodbye(1)
    assert read_state(path).goodbye == 1


@given(st.binary(max_size=5000))
def test_garbage_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("ring") / "rank-0.ring"
    path.write_bytes(data)
    for read in (read_state, read_records):
        with pytest.raises(ConfigError):
            read(path)


@given(st.integers(0, 4095), st.integers(0, 255))
def test_a_damaged_header_never_crashes_or_takes_memory(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("ring") / "rank-0.ring"
    make(path)
    data = bytearray(path.read_bytes())
    data[at] = value
    path.write_bytes(data)
    for read in (read_state, read_records):
        try:
            read(path)
        except ConfigError as error:
            assert str(path) in str(error)


def test_too_many_groups_are_still_recorded(tmp_path: Path) -> None:
    writer = make(tmp_path / "r", 1024)
    slots = [writer.add_group(number) for number in range(300)]
    assert slots[255] == 255
    assert slots[256] == -1
    writer.entered(-1, 299, 1, 1, 0, 0, 0, 0)
    assert writer.written == 1
    with pytest.raises(ValueError, match="capacity"):
        make(tmp_path / "s", 0)


def test_the_agent_sees_a_rank_and_passes_over_other_files(tmp_path: Path) -> None:
    writer = make(tmp_path / "rank-3.ring")
    (tmp_path / "rank-9.ring").write_text("not a ring")
    (tmp_path / "rank-3.groups").write_text('{"group": 5, "name": "world", "ranks": [0, 1, 2, 3]}\n')
    summary = Agent(tmp_path, FakeClock(4.0)).look()
    assert summary.at_s == 4.0
    (rank,) = summary.ranks
    assert rank.rank == 3
    assert rank.alive
    assert not rank.stopped
    assert summary.groups[0].ranks == [0, 1, 2, 3]
    del writer


def test_a_pid_that_was_reused_is_another_process() -> None:
    started = process.start_ticks(os.getpid())
    assert process.read(os.getpid(), started).state in "RS"
    assert process.read(os.getpid(), started - 1) is None
    assert process.read(2**22 + 7, 0) is None


def test_a_process_is_read_again_until_it_is_gone() -> None:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    with contextlib.closing(process.Process(child, process.start_ticks(child))) as watched:
        assert watched.read().state in "RS"
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert watched.read().dead
        os.waitpid(child, 0)
        assert watched.read() is None
    with pytest.raises(OSError, match="No such file"):
        process.Process(child, 0)


@pytest.mark.parametrize("open_at_most", [0, 64])
def test_a_rank_is_seen_whether_its_files_stay_open_or_not(
    open_at_most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tightwire.ccl.agent.MOST_OPEN", open_at_most)
    writer = make(tmp_path / "rank-3.ring")
    with contextlib.closing(Agent(tmp_path, FakeClock())) as agent:
        files = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            (rank,) = agent.look().ranks
            assert rank.alive
        assert len(os.listdir("/proc/self/fd")) <= files + 6
    assert len(os.listdir("/proc/self/fd")) < files + 1
    del writer


def test_names_are_stable() -> None:
    assert OPERATIONS[OPERATION_CODES["allreduce"]] == "allreduce"
    assert operation(9999) == "unknown"
    assert group_fingerprint("0", [0, 1]) == group_fingerprint("0", (0, 1)) != group_fingerprint("1", [0, 1])
