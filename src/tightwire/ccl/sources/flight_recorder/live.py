"""Sets of dumps of a job that is alive: asked for at each look, or written by the job into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tightwire.ccl.sources.flight_recorder import ask
from tightwire.ccl.sources.flight_recorder.folder import DumpSet, rank_of, read
from tightwire.errors import ConfigError

State = dict[str, tuple[int, int]]


class Live:
    """`where`: one folder, or addresses of worker servers by rank. `silent`: pipes that were asked at the look before the
    last, where no dump is there yet."""

    def __init__(self, where: Sequence[str]) -> None:
        self._folder = Path(where[0]) if len(where) == 1 and not where[0].startswith("http://") else None
        if self._folder is not None and not self._folder.is_dir():
            raise ConfigError(f"where: folder {where[0]!r} does not exist; make it before the job starts")
        self._addresses = ask.addresses(where) if self._folder is None else {}
        self._known: dict[int, str] = {}
        self._asked = self.silent = 0
        self._seen: State = {}
        self._judged: State = {}

    def look(self) -> list[tuple[DumpSet, bool]]:
        """The sets that there are now, each with whether the job wrote it by itself. Files that were not asked for are a set
        once they are the same at two looks: ranks write theirs at different times."""
        sets = []
        self._known |= ask.servers(self._folder) if self._folder is not None else self._addresses
        if self._known:  # also those whose socket is gone: they are missed
            sets.append((ask.ask(self._known), False))
        if self._folder is not None:
            state = _state(self._folder)
            self.silent = 0 if state else self._asked
            if state and state != self._judged and (state == self._seen or self._asked):
                self._judged = state
                sets.append((read(self._folder), self._asked == 0))
            self._seen = state
            self._asked = ask.ring(self._folder)
        return sets


def _state(folder: Path) -> State:
    """Size and time of each dump."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and rank_of(path.name) is not None:
            facts = path.stat()
            found[str(path)] = facts.st_size, facts.st_mtime_ns
    return found
