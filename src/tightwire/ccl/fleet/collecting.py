"""A collector as a process: all jobs that agents report, judged in turn."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

from tightwire.ccl.fleet.hosts import Hosts
from tightwire.ccl.fleet.incidents import Incidents
from tightwire.ccl.fleet.judging import Judging, News
from tightwire.ccl.fleet.lobby import Lobby
from tightwire.ccl.watcher import LOOK_EVERY_S
from tightwire.core.clock import Clock

Tell = Callable[[Judging, News], None]


class Collecting:
    """What comes into `lobby`, with incidents in the folder `out`. News of incidents go to `tell`, sentences about hosts
    and trouble to `say`."""

    def __init__(self, lobby: Lobby, out: Path, clock: Clock, tell: Tell, say: Callable[[str], None]) -> None:
        self._lobby, self._clock, self._tell, self._say = lobby, clock, tell, say
        self._incidents = Incidents(out, say)
        self._jobs: dict[str, Judging] = {}
        self._hosts: dict[tuple[str, str], bool] = {}
        self._refused = 0
        self._broken: set[str] = set()

    def run(self, stopped: Callable[[], bool], once: bool) -> int:
        """Until `stopped`, or with `once` until a job was here and all are over; how many hangs there were."""
        while not stopped():
            self.step()
            if once and self._jobs and all(judging.over for judging in self._jobs.values()):
                break
            self._clock.sleep_s(LOOK_EVERY_S)
        return sum(judging.hangs for judging in self._jobs.values())

    def step(self) -> None:
        jobs = self._lobby.jobs.now()
        for name in self._jobs.keys() - jobs.keys():  # another collector has it
            del self._jobs[name]
            self._incidents.forget(name)
            self._hosts = {each: here for each, here in self._hosts.items() if each[0] != name}
        for name, hosts in jobs.items():
            if name not in self._jobs or self._jobs[name].hosts is not hosts:
                self._jobs[name] = self._judging(name, hosts)
            self._judge(self._jobs[name])
            self._say_who_is_here(name, self._jobs[name])
        if self._lobby.refused > self._refused:
            self._refused = self._lobby.refused
            self._say(f"{self._refused} connections refused so far: without a key, or with one that is not authorized")
        self._incidents.retry()

    def _judging(self, name: str, hosts: Hosts) -> Judging:
        made: Judging = Judging(name, hosts, self._incidents, self._clock, lambda news: self._tell(made, news))
        return made

    def _judge(self, judging: Judging) -> None:
        try:
            judging.step()
        except Exception as error:  # whatever one job's agents sent, the other jobs are watched on
            judging.forget()
            if str(error) not in self._broken:
                self._broken.add(str(error))
                self._say(
                    f"job {judging.job}: judging it failed and begins again; please report this:\n{traceback.format_exc()}"
                )

    def _say_who_is_here(self, job: str, judging: Judging) -> None:
        for name, lost_s, missed in judging.hosts.told():
            here = lost_s is None
            if self._hosts.get((job, name)) == here:
                continue
            if here or not judging.over:
                more = f"; {missed} of its reports are missing" if missed else ""
                self._say(
                    f"job {job}: {name} "
                    + (f"reports{more}" if here else "is not heard of; what its ranks do is not known")
                )
            self._hosts[job, name] = here
