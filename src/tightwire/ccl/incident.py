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
MAX_OPERATIONS = 20_000  # that have ended
MAX_ON = 64
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
    """`rank` is inside an operation that the ranks `on` (the first `MAX_ON`) have not entered; nobody: it waits for bytes."""

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
    operations = [
        Operation(
            rank, group, sequence, operation(op), size_bytes, entered_s, None if ended_s != ended_s else ended_s, failed
        )
        for rank, group, sequence, op, size_bytes, entered_s, ended_s, failed in collector.rounds.lately(
            verdict.at_s - window_s, MAX_OPERATIONS
        )
    ]
    world = int(collector.standing.rows["world"].max(initial=0))
    return Incident(verdict, world, list(collector.groups.values()), _waits(collector), operations, command)


def _waits(collector: Collector) -> list[Wait]:
    """Of all ranks; who waits in one operation waits for the same."""
    waiting = wait_for.waits(collector)
    missing: dict[tuple[int, int], list[int]] = {}
    found = []
    for index, key in enumerate(zip(waiting.group.tolist(), waiting.sequence.tolist(), strict=True)):
        if key not in missing:
            missing[key] = waiting.missing(*key)[: MAX_ON + 1].tolist()
        rank, facts = int(waiting.rank[index]), collector.slots.facts[key[0]]
        on = [other for other in missing[key] if other != rank][:MAX_ON]
        found.append(Wait(rank, facts.group, key[1], operation(int(waiting.op[index])), on))
    return found
