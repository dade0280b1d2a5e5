"""An incident on disk: the verdict, who waited for whom when it was said, and what all ranks did just before."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tightwire.ccl.analyzer import wait_for
from tightwire.ccl.collector import Collector
from tightwire.ccl.summary import GroupFacts
from tightwire.ccl.verdict import Verdict
from tightwire.core.events import operation
from tightwire.errors import ConfigError

NAME = "incident.json"
WINDOW_S = 30.0
MAX_OPERATIONS = 20_000
MAX_BYTES = 256 * 2**20


class Operation(msgspec.Struct, frozen=True):
    """What one rank did: `entered_s`, `ended_s` on its host's monotonic clock; None: it has not ended."""

    rank: int
    group: int
    sequence: int
    name: str
    size_bytes: int
    entered_s: float
    ended_s: float | None
    failed: bool = False


class Wait(msgspec.Struct, frozen=True):
    """`rank` is inside an operation that the ranks `on` have not entered; nobody: it waits for bytes."""

    rank: int
    group: int
    sequence: int
    name: str
    on: list[int]


class Incident(msgspec.Struct, frozen=True):
    """`command` is the job's, if it was started under observation; `operations` are the newest, in order of entry."""

    verdict: Verdict
    world: int
    groups: list[GroupFacts]
    waits: list[Wait]
    operations: list[Operation]
    command: list[str] = []
    version: int = 1

    def group_name(self, group: int) -> str:
        return next((facts.name for facts in self.groups if facts.group == group), f"{group:016x}")

    def save(self, folder: Path) -> Path:
        path = folder / NAME
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        return path

    @classmethod
    def load(cls, path: Path) -> Incident:
        """Of the file, or of the folder that holds it. Raises ConfigError that names it and what is wrong."""
        file = path / NAME if path.is_dir() else path
        try:
            if file.stat().st_size > MAX_BYTES:
                raise ConfigError(f"{file} has {file.stat().st_size} bytes; at most {MAX_BYTES} are read")
            found = msgspec.json.decode(file.read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"incident {file}: {error}; give the folder that tightwire ccl run wrote") from error
        if found.version != 1:
            raise ConfigError(f"incident {file} is of version {found.version}; this Tightwire reads version 1")
        return found


def capture(collector: Collector, verdict: Verdict, command: list[str], window_s: float = WINDOW_S) -> Incident:
    """As the collector knows it now; operations of the last `window_s` before the verdict, and all that have not ended."""
    since_s = verdict.at_s - window_s
    operations = [
        Operation(
            rank, round_.group, round_.sequence, operation(called.op), called.size_bytes, round_.entered_s[rank],
            round_.ended_s.get(rank), rank in round_.failed,
        )
        for group in range(len(collector.slots.facts))
        for round_ in collector.rounds.of(group)
        for rank, called in round_.called.items()
        if rank not in round_.ended_s or round_.ended_s[rank] >= since_s
    ]  # fmt: skip
    operations.sort(key=lambda each: each.entered_s)
    ended = [each for each in operations if each.ended_s is not None]
    kept = [each for each in operations if each.ended_s is None] + ended[-MAX_OPERATIONS:]
    kept.sort(key=lambda each: each.entered_s)
    waits = [
        Wait(wait.rank, wait.group, wait.sequence, operation(wait.op), list(wait.missing))
        for wait in wait_for.waits(collector)
    ]
    world = int(collector.standing.rows["world"].max(initial=0))
    return Incident(verdict, world, list(collector.groups.values()), waits, kept, command)
