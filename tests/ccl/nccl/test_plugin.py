"""The NCCL profiler plugin, driven as NCCL drives it."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tightwire.ccl.agent import Agent
from tightwire.ccl.analyzer.slow import links
from tightwire.ccl.host import ThisHost
from tightwire.ccl.sources import nccl_plugin
from tightwire.core.clock import FakeClock
from tightwire.core.events import Kind, operation
from tightwire.errors import ConfigError

ROOT = Path(__file__).parents[3]
COMPILER = shutil.which("c++") or shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
SOURCES = [str(Path(__file__).with_name("driver.cpp")), f"-I{ROOT / 'native/nccl_profiler'}", "-std=c++20", "-g"]


def compiled(folder: Path, *flags: str) -> Path:
    driver = folder / "driver"
    subprocess.run([str(COMPILER), *SOURCES, *flags, "-o", str(driver), "-lpthread", "-ldl"], check=True)
    return driver


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Loads the installed plugin as NCCL does."""
    return compiled(tmp_path_factory.mktemp("driver"), "-O1", "-DPLUGIN_FILE")


def drive(driver: Path, folder: Path, *arguments: object, **variables: str) -> Path:
    command = [str(driver), str(nccl_plugin.library()), *map(str, arguments)]
    environment = {**os.environ, "TIGHTWIRE_CCL": str(folder), "RANK": "2", "WORLD_SIZE": "4", **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (ring,) = folder.glob("nccl-*.ring")
    return ring


@pytest.mark.parametrize("version", [4, 5, 6])
def test_collectives_are_entered_started_and_done_when_their_kernels_are(
    driver: Path, tmp_path: Path, version: int
) -> None:
    ring = drive(driver, tmp_path, version, "ordinary", 3)
    state = nccl_plugin.read(ring)
    records, seen = nccl_plugin.read_records(ring, 0)
    assert (state.rank, seen) == (2, len(records))
    (frame,) = state.frames
    assert (frame.group, frame.entered_seq, frame.done_count) == (0xC0FFEE, 3, 3)
    (communicator,) = state.communicators
    assert (communicator.group, communicator.rank, communicator.size) == (0xC0FFEE, 0, 4)
    collectives = records[records["op"] == 1]
    for sequence in (1, 2, 3):
        life = collectives[collectives["seq"] == sequence]
        assert list(life["kind"]) == [Kind.ENTERED, Kind.STARTED, Kind.DONE]
        assert (np.diff(life["time_ns"].astype(np.int64)) >= 0).all()
        assert life["bytes"][0] == 2048
        assert life["shape"][0] == sequence - 1  # NCCL's own number
        assert life["shape"][2] == 5000  # ns on the GPU
    sent = records[records["op"] == 13]
    assert [operation(int(op)) for op in sent["op"]] == ["send"] * 3
    assert list(sent["kind"]) == [Kind.ENTERED, Kind.STARTED, Kind.DONE]
    assert set(sent["peer"]) == {1}


def test_transfers_are_counted_for_each_peer_and_direction(driver: Path, tmp_path: Path) -> None:
    state = nccl_plugin.read(drive(driver, tmp_path, 5, "ordinary", 3))
    told = {(t.peer, t.sends): (t.bytes, t.steps_started, t.steps_done, t.outstanding, t.waits) for t in state.transfers}
    assert told == {(1, True): (3 * 4 * 65536, 12, 12, 0, ""), (3, False): (3 * 4 * 65536, 12, 12, 0, "")}
    assert all(t.communicator == state.communicators[0] for t in state.transfers)


@contextlib.contextmanager
def ring_of_four(driver: Path, folder: Path) -> Iterator[dict[int, subprocess.Popen[str]]]:
    """Each rank of one communicator, by its rank in the job, which is another."""
    with contextlib.ExitStack() as started:
        ranks = {}
        for place in range(4):
            environment = {**os.environ, "TIGHTWIRE_CCL": str(folder), "RANK": str(place)}
            command = [str(driver), str(nccl_plugin.library()), "5", "ring"]
            made = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            started.enter_context(made)
            started.callback(made.kill)
            assert made.stdout.readline().startswith("mask")
            ranks[10 + place] = made
        yield ranks


@pytest.mark.parametrize(
    ("changed", "slow"),
    [
        ({11: "20000 0"}, ((11, 12),)),
        ({11: "200 20000"}, None),  # its receiver is late
        ({}, None),
    ],
)
def test_a_slow_link_is_known_by_what_the_proxies_waited_for(
    driver: Path, tmp_path: Path, changed: dict[int, str], slow: tuple[tuple[int, int], ...] | None
) -> None:
    with (
        ring_of_four(driver, tmp_path) as ranks,
        contextlib.closing(Agent(tmp_path, FakeClock())) as agent,
        contextlib.closing(ThisHost(agent)) as host,
    ):
        pids = {rank: made.pid for rank, made in ranks.items()}
        looks = []
        for orders in ({}, {}, {}, changed, changed):
            for rank, made in ranks.items():
                made.stdin.write(orders.get(rank, "200 0") + "\n")
                made.stdin.flush()
            assert [made.stdout.readline() for made in ranks.values()] == ["done\n"] * 4
            looks.append(links.look(host.connections(pids)))
    found = links.find(links.flows(looks[:3]), links.flows(looks[2:]))
    assert (None if found is None else found.pairs) == slow
    assert nccl_plugin.ends(tmp_path, {1: 1}) == []


def test_a_damaged_ring_claims_no_more_than_a_column_holds() -> None:
    most = 2**64 - 1
    wild = nccl_plugin.Transfer(None, 0, True, most, most, 1, 0, nccl_plugin.STATES[nccl_plugin.SEND_WAITS], 0, most)
    assert wild.queued_bytes == nccl_plugin.MOST_QUEUED


def test_a_hang_shows_the_operation_and_the_step_that_waits(driver: Path, tmp_path: Path) -> None:
    ring = drive(driver, tmp_path, 6, "hang")
    state = nccl_plugin.read(ring)
    (frame,) = state.frames
    assert (frame.entered_seq, frame.done_count) == (4, 3)
    (stuck,) = [t for t in state.transfers if t.outstanding]
    assert (stuck.peer, stuck.sends, stuck.outstanding, stuck.waits) == (1, True, 1, "send: waits for the network")
    assert stuck.queued_bytes == 65536
    records, _ = nccl_plugin.read_records(ring, 0)
    assert stuck.since_ns >= int(records["time_ns"].max())


def test_any_order_of_stops_ends_an_operation_once(driver: Path, tmp_path: Path) -> None:
    ring = drive(driver, tmp_path, 5, "orders")
    records, _ = nccl_plugin.read_records(ring, 0)
    ends = records[records["kind"] == Kind.DONE]
    assert [operation(int(op)) for op in ends["op"]] == ["allreduce", "allgather", "reduce_scatter"]
    assert list(ends["shape"]) == [10, 0, 0]  # a stop time of zero is no duration


@pytest.mark.parametrize("version", [4, 5, 6])
def test_lost_double_and_foreign_stops_do_no_harm_and_later_ends_end_earlier(
    driver: Path, tmp_path: Path, version: int
) -> None:
    ring = drive(driver, tmp_path, version, "broken", 500)
    state = nccl_plugin.read(ring)
    (frame,) = state.frames
    assert (frame.entered_seq, frame.done_count) == (501, 501)
    foreign = [t for t in state.transfers if t.communicator is None]
    assert sum(t.bytes for t in foreign if t.peer == 2) == 500 * 7


def test_communicators_come_and_go_and_leave_nothing_open(driver: Path, tmp_path: Path) -> None:
    state = nccl_plugin.read(drive(driver, tmp_path, 5, "communicators", 600))
    assert len(state.communicators) == 601
    assert len(state.frames) == 2  # places are used again
    assert all(frame.entered_seq == frame.done_count for frame in state.frames)


def test_records_that_are_being_written_wait_for_the_next_look(driver: Path, tmp_path: Path) -> None:
    ring = drive(driver, tmp_path, 5, "ordinary", 3)
    whole, seen = nccl_plugin.read_records(ring, 0)
    data = bytearray(ring.read_bytes())
    at = 4096 + 256 * 64 + (seen - 2) * 64 + 56
    stamp, data[at : at + 8] = bytes(data[at : at + 8]), bytes(8)
    ring.write_bytes(data)
    first, then = nccl_plugin.read_records(ring, 0)
    assert (len(first), then) == (seen - 2, seen - 2)
    data[at : at + 8] = stamp
    ring.write_bytes(data)
    rest, end = nccl_plugin.read_records(ring, then)
    assert end == seen
    assert np.concatenate([first, rest]).tobytes() == whole.tobytes()


def test_a_ring_that_goes_round_keeps_the_newest(driver: Path, tmp_path: Path) -> None:
    ring = drive(driver, tmp_path, 5, "busy", 10000)
    records, seen = nccl_plugin.read_records(ring, 0)
    assert seen == 30000  # entered, started, done
    assert 16000 < len(records) <= 16384
    assert records["seq"][-1] == 10000


def test_where_no_ring_can_be_made_the_host_runs_on_unobserved(driver: Path, tmp_path: Path) -> None:
    command = [str(driver), str(nccl_plugin.library()), "5", "ordinary", "3"]
    environment = {**os.environ, "TIGHTWIRE_CCL": str(tmp_path / "missing")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mask 0\n")
    assert not list(tmp_path.iterdir())


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nccl-1.ring"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match="not an event ring"):
        nccl_plugin.read(path)


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_eight_threads_under_a_sanitizer(tmp_path: Path, sanitizer: str) -> None:
    plugin = str(ROOT / "native/nccl_profiler/plugin.cpp")
    driver = compiled(tmp_path, "-O1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", plugin)
    folder = tmp_path / "rings"
    folder.mkdir()
    for arguments in (("5", "busy", "500", "8"), ("6", "wild", "5000", "8"), ("4", "broken", "200"), ("5", "communicators", "300")):
        done = subprocess.run(
            [str(driver), *arguments], env={**os.environ, "TIGHTWIRE_CCL": str(folder)}, capture_output=True, text=True, check=False
        )
        if "FATAL: ThreadSanitizer" in done.stderr or "cannot find -l" in done.stderr:
            pytest.skip(f"this machine cannot run {sanitizer}: {done.stderr.splitlines()[0]}")
        assert done.returncode == 0, done.stderr[:3000]
