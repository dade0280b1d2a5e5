"""This rank's ring, the channels in it, and how the rank takes its leave.

A channel is what counts its operations for itself: the collectives of a group, and each directed pair (and tag) of its
point-to-point calls. Both ends of a pair count alike, so their numbers can be compared like those of a collective.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tightwire.ccl.probe.process import start_ticks
from tightwire.ccl.probe.ring import Goodbye
from tightwire.core.events import OPERATION_CODES, RENDEZVOUS, group_fingerprint

CAPACITY = 8192
NO_PEER = 0xFFFFFFFF


class Channel:
    """Its frame (-1 when all were taken), its fingerprint and the number of its last operation."""

    __slots__ = ("fingerprint", "sequence", "slot")

    def __init__(self, slot: int, fingerprint: int) -> None:
        self.slot, self.fingerprint, self.sequence = slot, fingerprint, 0


class Rank:
    """Writes the ring of this process. `before_leaving` runs before a goodbye: what it notes still counts."""

    def __init__(self, folder: Path) -> None:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        folder.mkdir(parents=True, exist_ok=True)
        self._facts = folder / f"rank-{rank}.groups"
        self._facts.write_text("")
        self._world = world
        self._rendezvous: Channel | None = None
        self._pid, self._failed = os.getpid(), False
        self.before_leaving: Callable[[], object] = bool
        self.writer = _writer(str(folder / f"rank-{rank}.ring"), rank, world, self._pid)
        self.writer.note_sigterm()
        atexit.register(self._leave)
        self._excepthook = sys.excepthook
        sys.excepthook = self._on_error

    def channel(self, name: str, ranks: list[int], point_to_point: bool = False) -> Channel:
        """A new channel of global `ranks` (source first for a pair); its members go into a file beside the ring."""
        fingerprint = group_fingerprint(name, ranks)
        fact = {"group": fingerprint, "name": name, "ranks": ranks, "point_to_point": point_to_point}
        with self._facts.open("a") as file:
            file.write(json.dumps(fact) + "\n")
        return Channel(self.writer.add_group(fingerprint), fingerprint)

    def note_unseen(self, what: str) -> None:
        """Tell the agent what this rank does that the probe does not see."""
        with self._facts.open("a") as file:
            file.write(json.dumps({"unseen": what}) + "\n")

    def joining(self, join: Callable[[], Any]) -> Any:
        """The result of `join`, which waits for all ranks; noted like an operation."""
        if self._rendezvous is None:
            self._rendezvous = self.channel(RENDEZVOUS, list(range(self._world)))
        channel, op = self._rendezvous, OPERATION_CODES["barrier"]
        channel.sequence += 1
        mark = channel.slot, channel.fingerprint, channel.sequence, op
        self.writer.entered(*mark, 0, 0, 0, NO_PEER)
        failed = True
        try:
            result = join()
            failed = False
            return result
        finally:
            self.writer.done(*mark, failed)

    def joined(self) -> None:
        """It is (again) in a group: an earlier goodbye does not count."""
        self.writer.goodbye(Goodbye.NONE)

    def left(self) -> None:
        """It destroyed its groups: a process that ends after this, even by os._exit, left in order."""
        self.before_leaving()
        self.writer.goodbye(Goodbye.IN_ORDER)

    def _leave(self) -> None:
        if os.getpid() == self._pid and not self._failed:  # not in a forked child
            self.left()

    def _on_error(self, kind: Any, value: Any, trace: Any) -> None:
        if os.getpid() == self._pid:
            self._failed = True
            self.before_leaving()  # an operation that failed makes this rank a victim
            self.writer.goodbye(Goodbye.ASKED if issubclass(kind, KeyboardInterrupt) else Goodbye.ERROR)
        self._excepthook(kind, value, trace)


def _writer(path: str, rank: int, world: int, pid: int) -> Any:
    try:
        from tightwire._ring import Writer  # type: ignore[import-not-found,unused-ignore]
    except ImportError:  # not built here
        from tightwire.ccl.probe.ring_writer import Writer
    return Writer(path, CAPACITY, rank, world, pid, start_ticks(pid) or 0)
