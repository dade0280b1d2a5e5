"""Two real hosts' worth of processes: agents, a collector and a job on loopback, killed, starved of disk, and corrupted."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kv.store.helpers import RedisServer
from tightwire.ccl.probe.ring import FRAME, FRAMES, HEADER_BYTES
from tightwire.net.keys import Keys
from tightwire.net.ports import free_port

pytestmark = pytest.mark.job
CLI = [sys.executable, "-m", "tightwire.cli", "ccl"]
LIMIT_S = 120


class Fleet:
    """`processes` by name; what each says is in `folder`/NAME.log."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address, self.rendezvous = folder, f"tcp://127.0.0.1:{free_port()}", free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.out = folder / "incidents"

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            made = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        self.processes[name] = made
        return made

    def collector(self, *more: str) -> subprocess.Popen[bytes]:
        return self.start("collector", *CLI, "collect", "--from", self.address, "--out", str(self.out), *more)

    def agent(self, host: int, *more: str) -> subprocess.Popen[bytes]:
        """Of rings that are there, or will be."""
        return self.start(
            f"agent{host}", *CLI, "agent", "--to", self.address, "--folder", str(self.rings(host)), *more
        )

    def rings(self, host: int) -> Path:
        return self.folder / f"rings{host}"

    def job(self, *arguments: str, rings: bool = True) -> None:
        """Two hosts with two ranks each."""
        for host in range(2):
            switch = [f"TIGHTWIRE_CCL={self.rings(host)}"] if rings else []
            self.start(
                f"job{host}", "env", *switch, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank",
                str(host), "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(self.rendezvous),
                "-m", "tightwire.ccl.faults.sample_job", *arguments,
            )  # fmt: skip

    def said(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def losses(self) -> list[str]:
        return re.findall(r"step (?:\d+) loss [\d.]+", self.said("job0"))

    def kill(self, name: str) -> None:
        made = self.processes[name]
        made.kill()
        made.wait()

    def end(self) -> None:
        for made in self.processes.values():
            try:
                os.killpg(made.pid, signal.SIGCONT)
                os.killpg(made.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        for made in self.processes.values():
            try:
                made.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(made.pid, signal.SIGKILL)
                made.wait()


def until(condition: Callable[[], object], fleet: Fleet) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s, {name: fleet.said(name)[-1500:] for name in fleet.processes}
        time.sleep(0.1)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.end()
    end_job(made)


def end_job(fleet: Fleet) -> None:
    for pid in _ranks(fleet):
        os.kill(pid, signal.SIGKILL)


def _ranks(fleet: Fleet) -> list[int]:
    """The ranks that are left of its job: torchrun gives each a session of its own."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if (
                f"MASTER_PORT={fleet.rendezvous}\0".encode() in environment
                and b"sample_job" in (entry / "cmdline").read_bytes()
            ):
                found.append(int(entry.name))
    return found


def test_a_frozen_rank_is_named_once_whoever_is_killed(fleet: Fleet) -> None:
    fleet.collector()
    for host in range(2):
        fleet.agent(host)
    fleet.job("--steps", "100000", "--fault", "stop", "--rank", "2", "--step", "30")
    until(lambda: fleet.said("collector").count("guilty: rank 2") == 1, fleet)
    fleet.kill("collector")
    fleet.kill("agent0")
    fleet.agent(0)
    fleet.collector()
    until(lambda: "still open: H1, rank 2" in fleet.said("collector"), fleet)
    time.sleep(6)
    assert fleet.said("collector").count("guilty:") == 1
    (known,) = json.loads((fleet.out / "open-default.json").read_text())
    verdict = known["verdict"]
    assert (verdict["class"], verdict["guilty_ranks"], verdict["confidence"]) == ("H1", [2], "high")
    assert known["closed"] is None
    assert any("do_signal_stop" in line for line in verdict["evidence"])  # asked for on the other host
    for pid in _ranks(fleet):
        os.kill(pid, signal.SIGCONT)  # it goes on
    until(lambda: "H1 is over: it moves again" in fleet.said("collector"), fleet)


def test_training_goes_on_with_the_same_losses_whatever_breaks(fleet: Fleet) -> None:
    fleet.job("--steps", "151", rings=False)
    until(lambda: len(fleet.losses()) == 4, fleet)
    alone = fleet.losses()
    for name in ("job0", "job1"):
        assert fleet.processes[name].wait(60) == 0
        (fleet.folder / f"{name}.log").unlink()
    fleet.rendezvous = free_port()
    fleet.collector()
    for host in range(2):
        fleet.agent(host)
    fleet.job("--steps", "151")
    until(lambda: len(fleet.losses()) >= 1, fleet)
    (ring,) = fleet.rings(1).glob("rank-3.ring")
    with ring.open("r+b") as file:  # a stranger writes into it; the job has it mapped
        file.seek(HEADER_BYTES)
        file.write(os.urandom(FRAMES * FRAME.itemsize))
    fleet.kill("agent0")
    fleet.kill("collector")
    for name in ("job0", "job1"):
        assert fleet.processes[name].wait(LIMIT_S) == 0
    assert fleet.losses() == alone
    assert "guilty" not in fleet.said("collector")


def test_redis_is_killed_while_a_rank_freezes(fleet: Fleet) -> None:
    server = RedisServer()
    try:
        fleet.address = server.url
        fleet.collector()
        for host in range(2):
            fleet.agent(host)
        fleet.job("--steps", "100000", "--fault", "stop", "--rank", "2", "--step", "190")
        until(lambda: fleet.losses() and fleet.said("collector").count("reports") == 2, fleet)
        server.kill()
        until(lambda: len(fleet.losses()) == 4, fleet)  # the job notices nothing
        until(lambda: all("not reached" in fleet.said(name) for name in ("collector", "agent0", "agent1")), fleet)
        assert "guilty" not in fleet.said("collector")
        server.start()
        until(lambda: "guilty: rank 2" in fleet.said("collector"), fleet)
        assert fleet.said("collector").count("guilty:") == 1
        assert "missing" not in fleet.said("collector")
    finally:
        server.kill()


def test_another_collector_takes_the_job_of_one_that_is_killed(fleet: Fleet) -> None:
    """While it is gone a rank freezes; the other one judges what the agents kept, and tells what was told once."""
    server = RedisServer()
    try:
        fleet.address = server.url
        fleet.collector()
        fleet.start("other", *CLI, "collect", "--from", server.url, "--out", str(fleet.out))
        for host in range(2):
            fleet.agent(host)
        fleet.job("--steps", "100000", "--fault", "stop", "--rank", "3", "--step", "150")
        until(lambda: any("judged here" in fleet.said(name) for name in ("collector", "other")), fleet)
        first, second = ("collector", "other") if "judged here" in fleet.said("collector") else ("other", "collector")
        until(lambda: fleet.losses(), fleet)
        fleet.kill(first)
        until(lambda: "guilty: rank 3" in fleet.said(second), fleet)
        assert "judged here" in fleet.said(second)
        fleet.start("third", *CLI, "collect", "--from", server.url, "--out", str(fleet.out))
        fleet.kill(second)
        until(lambda: "still open: H1, rank 3" in fleet.said("third"), fleet)
        assert "guilty" not in fleet.said("third")
    finally:
        server.kill()


def test_a_rank_survives_a_stranger_in_the_header_of_its_ring(tmp_path: Path) -> None:
    pytest.importorskip("tightwire._ring")
    code = (
        "import os, sys; from tightwire._ring import Writer; w = Writer(sys.argv[1], 64, 0, 1, os.getpid(), 1)\n"
        "with open(sys.argv[1], 'r+b') as file: file.seek(12), file.write(bytes(4))\n"
        "w.entered(w.add_group(5), 5, 1, 1, 4, 1, 0, 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "rank-0.ring")], check=False)
    assert done.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system needs root")
def test_a_full_disk_costs_the_files_and_nothing_else(fleet: Fleet) -> None:
    fleet.out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(fleet.out)], check=True)
    try:
        (fleet.out / "full").write_bytes(bytes(4096))
        fleet.collector()
        for host in range(2):
            fleet.agent(host)
        fleet.job("--steps", "100000", "--fault", "stop", "--rank", "1", "--step", "30")
        until(lambda: "guilty: rank 1" in fleet.said("collector"), fleet)
        until(lambda: "cannot be written" in fleet.said("collector"), fleet)
        assert fleet.processes["collector"].poll() is None
        (fleet.out / "full").unlink()
        subprocess.run(["mount", "-o", "remount,size=16m", str(fleet.out)], check=True)
        until(lambda: (fleet.out / "open-default.json").exists(), fleet)
    finally:
        fleet.end()
        subprocess.run(["umount", "-l", str(fleet.out)], check=True)


def test_with_keys_strangers_are_refused_and_counted(fleet: Fleet) -> None:
    ours, theirs = fleet.folder / "ours", fleet.folder / "theirs"
    Keys.generate().save(ours)
    Keys.generate().save(theirs)
    fleet.collector("--keys", str(ours))
    fleet.agent(0, "--keys", str(ours))
    fleet.agent(1, "--keys", str(theirs), "--server", str(ours))
    until(lambda: "reports" in fleet.said("collector"), fleet)
    until(lambda: "refused" in fleet.said("collector"), fleet)
    until(lambda: "refused" in fleet.said("agent1"), fleet)
    assert "connected" in fleet.said("agent0")
    assert "connected" not in fleet.said("agent1")


def test_beyond_this_machine_only_when_asked_to(fleet: Fleet) -> None:
    done = subprocess.run([*CLI, "collect", "--listen", "tcp://0.0.0.0:0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--keys" in done.stderr
