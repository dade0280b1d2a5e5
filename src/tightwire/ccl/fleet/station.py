"""The agent of a host as a process: it looks, keeps, and ships; with a command it also starts this host's part of the job."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tightwire.ccl import watch
from tightwire.ccl.agent import Agent
from tightwire.ccl.fleet.answering import Answering
from tightwire.ccl.fleet.backlog import Backlog
from tightwire.ccl.fleet.messages import About, pack
from tightwire.ccl.fleet.uplink import Uplink
from tightwire.ccl.packing import Packer
from tightwire.ccl.probe.process import read
from tightwire.ccl.probe.ring import read_state
from tightwire.ccl.watcher import CALM_EVERY_S
from tightwire.core.clock import Clock
from tightwire.errors import ConfigError

FLUSH_S = 3.0  # after the last look
_NAMESPACE, _BOOT = Path("/proc/self/ns/net"), Path("/proc/sys/kernel/random/boot_id")


Connect = Callable[[About, Backlog, Answering], Uplink]


def default_folder(job: str) -> Path:
    """Where the rings of `job` are on this host."""
    shared = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp")
    return shared / f"tightwire-{job}"


def name_of_host(folder: Path) -> str:
    """The same for each agent of these rings, and no other's: hosts may share their name, and containers of one machine
    even more."""
    told = [_BOOT.read_text() if _BOOT.exists() else "", str(folder.resolve())]
    with contextlib.suppress(OSError):
        told.append(os.readlink(_NAMESPACE))
    return f"{socket.gethostname()}-{hashlib.blake2b(' '.join(told).encode(), digest_size=2).hexdigest()}"


class Station:
    """Ships what is seen in `folder` for `job`. `stop` ends `run`, from any thread."""

    def __init__(self, job: str, folder: Path, connect: Connect, clock: Clock, max_bytes: int) -> None:
        self._folder, self._clock = folder, clock
        self._stop = threading.Event()
        self.stop = self._stop.set
        self.about = About(job, name_of_host(folder), secrets.randbits(63))
        self._agent, self._packer = Agent(folder, clock), Packer()
        self.backlog = Backlog(max_bytes)
        self._uplink = connect(self.about, self.backlog, Answering(self.about, self._agent))

    def run(self) -> None:
        """Until `stop`."""
        with self._open():
            while not self._stop.is_set():
                self._look()
                self._agent.wait(CALM_EVERY_S)

    def run_with(self, command: list[str]) -> int:
        """Until the command ends; its exit status (128 + n after signal n). It outlives this agent if that is killed. Raises
        ConfigError when it cannot be started."""
        _clear(self._folder)
        with self._open():
            environment = {**os.environ, "TIGHTWIRE_CCL": str(self._folder)}
            try:
                job = subprocess.Popen(command, env=environment, start_new_session=True)
            except OSError as error:
                raise ConfigError(f"command {command[0]!r} cannot be started: {error}; give it after --") from error
            with watch.forwarded(job):
                while job.poll() is None:
                    self._look()
                    self._agent.wait(CALM_EVERY_S)
            self._look()
        shutil.rmtree(self._folder, ignore_errors=True)
        return job.returncode if job.returncode >= 0 else 128 - job.returncode

    def _look(self) -> None:
        digest = self._packer.digest(self._agent.look())
        if not self.backlog.append(digest.at_s, pack(digest), digest.whole):
            self._packer.renew()
        self._uplink.wake()

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        try:
            yield
            until_s = self._clock.now_s() + FLUSH_S
            while not self._uplink.idle and self._clock.now_s() < until_s:
                self._clock.sleep_s(0.02)
        finally:
            self._uplink.close()
            self._agent.close()


def _clear(folder: Path) -> None:
    """Remove what an earlier job left. Raises ConfigError while that still runs."""
    for path in folder.glob("rank-*"):
        with contextlib.suppress(OSError, ConfigError):
            ring = read_state(path)
            owner = read(ring.pid, ring.pid_start)
            if owner is not None and not owner.dead:
                alive = ring.pid
                break
    else:
        for path in folder.glob("rank-*"):
            with contextlib.suppress(OSError):
                path.unlink()
        return
    raise ConfigError(f"folder {folder} belongs to a job that runs (pid {alive}); give --job another name, or --folder")


def on_signals(call: Callable[[], None]) -> None:
    """SIGINT and SIGTERM `call` instead of ending the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: call())
