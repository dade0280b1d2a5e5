"""The incidents of all jobs, on disk, so that a collector that starts again, or takes a job over from another with the same
folder, knows which are open: none is told twice."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from tightwire.ccl import journal
from tightwire.ccl.incident import Incident
from tightwire.ccl.verdict import Verdict
from tightwire.errors import ConfigError

KEPT = 200  # of a job's that are over: a collector that judges the last minutes again finds them again
MAX_BYTES = 64 * 2**20
SAME_S = 2.0


class Known(msgspec.Struct):
    """An incident of `job`. `processes`: by rank, pid and start. `done`: operations that the waiting ranks had completed.
    `since` and `closed` are seconds since 1970; `reason` why it is over."""

    job: str
    folder: str
    verdict: Verdict
    processes: dict[int, tuple[int, int]]
    done: int
    since: float
    closed: float | None = None
    reason: str = ""

    @property
    def open(self) -> bool:
        return self.closed is None

    def same(self, verdict: Verdict, since: float) -> bool:
        """Whether `verdict` says this once more, or more about it."""
        mine = self.verdict
        if mine.is_hang != verdict.is_hang or (self.closed is not None and since > self.closed + SAME_S):
            return False
        return bool(
            set(mine.guilty_ranks) & set(verdict.guilty_ranks)
            or set(mine.guilty_links) & set(verdict.guilty_links)
            or (mine.group, mine.sequence, mine.is_hang and mine.anomaly)
            == (verdict.group, verdict.sequence, verdict.is_hang and verdict.anomaly)
        )

    def of_start(self, processes: Mapping[int, tuple[int, int]]) -> bool:
        """Whether these are the processes that it was about."""
        return all(processes.get(rank, mine) == mine for rank, mine in self.processes.items())


class Incidents:
    """In the folder `out`, one folder for each, and a file `open-JOB.json` for each job. `say` gets a sentence when something
    cannot be written; then it is remembered here, and tried again."""

    def __init__(self, out: Path, say: Callable[[str], None], wall_s: Callable[[], float] = time.time) -> None:
        self._out, self._say, self._wall_s = out, say, wall_s
        self._known: dict[str, list[Known]] = {}
        self._unsaved: set[str] = set()
        self._failed = ""

    def of(self, job: str) -> list[Known]:
        """Newest first."""
        return self._of(job)[::-1]

    def forget(self, job: str) -> None:
        """Another collector writes its file from now on."""
        self._known.pop(job, None)
        self._unsaved.discard(job)

    def note(
        self,
        job: str,
        verdict: Verdict,
        incident: Incident,
        processes: dict[int, tuple[int, int]],
        done: int,
        ago_s: float,
    ) -> tuple[Known, bool]:
        """The incident that `verdict` on these `processes` opens, continues or ends, and whether that is news. It began `ago_s`
        ago."""
        since = self._wall_s() - ago_s
        found = next((each for each in self.of(job) if each.same(verdict, since) and each.of_start(processes)), None)
        if found is not None and (not found.open or _says_no_more(verdict, found.verdict)):
            return found, False
        if found is None:
            found = Known(job, str(self._folder(job)), verdict, processes, done, since)
            self._of(job).append(found)
        found.verdict, found.done = verdict, done
        if verdict.ended_s is not None:
            found.closed, found.reason = self._wall_s(), "recovered"
        self._tell(journal.write(Path(found.folder), verdict, incident))
        self._save(job)
        return found, True

    def ago_s(self, found: Known) -> float:
        """How long ago it began."""
        return self._wall_s() - found.since

    def close(self, found: Known, reason: str) -> None:
        found.closed, found.reason = self._wall_s(), reason
        self._save(found.job)

    def retry(self) -> None:
        """Write what could not be written, if it can be now."""
        for job in list(self._unsaved):
            self._save(job)

    def _folder(self, job: str) -> Path:
        taken = {each.folder for each in self._of(job)}
        name = time.strftime("%Y%m%d-%H%M%S", time.localtime(self._wall_s()))
        choices = (self._out / f"{name}-{_safe(job)}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 10_000))))
        return next(each for each in choices if str(each) not in taken)

    def _file(self, job: str) -> Path:
        return self._out / f"open-{_safe(job)}.json"

    def _of(self, job: str) -> list[Known]:
        """Oldest first."""
        if job not in self._known:
            self._known[job] = self._load(job)
        return self._known[job]

    def _load(self, job: str) -> list[Known]:
        path = self._file(job)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ConfigError(f"{path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read; remove it")
            return msgspec.json.decode(path.read_bytes(), type=list[Known])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self._say(f"{path} cannot be read ({error}); open incidents of an earlier collector are not known")
            return []

    def _save(self, job: str) -> None:
        over = [each for each in self._of(job) if not each.open][:-KEPT]
        self._known[job] = [each for each in self._of(job) if not any(each is old for old in over)]
        problem = None
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            journal.replace(self._file(job), msgspec.json.encode(self._known[job]))
            self._unsaved.discard(job)
        except OSError as error:
            self._unsaved.add(job)
            problem = f"{self._file(job)} cannot be written: {error.strerror or error}"
        self._tell(problem)

    def _tell(self, problem: str | None) -> None:
        """Each trouble once."""
        if problem is not None and problem != self._failed:
            self._say(problem)
            self._failed = problem


def _safe(job: str) -> str:
    """A part of a file's name, another for each job."""
    safe = "".join(each if each.isalnum() or each in "-_" else "_" for each in job)[:64]
    return safe if safe == job else f"{safe}-{hashlib.blake2b(job.encode(), digest_size=4).hexdigest()}"


def _says_no_more(verdict: Verdict, known: Verdict) -> bool:
    """A hang stands as it was told first, unless more certainty or more guilty came; what is slow is told again as the
    watcher says."""
    if verdict.is_hang:
        named, before = ({*each.guilty_ranks, *each.guilty_links} for each in (verdict, known))
        return named <= before and not (known.confidence == "low" and verdict.confidence == "high")
    same = (verdict.anomaly, verdict.guilty_ranks, verdict.guilty_links) == (
        known.anomaly, known.guilty_ranks, known.guilty_links
    )  # fmt: skip
    return same and verdict.ended_s is None
