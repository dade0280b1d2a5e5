"""What the ranks of a group did, aligned: round n of a group is its operation number n on all ranks.

Sans-IO: records in, rounds out. A bounded window of each group is kept.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tightwire.core.events import DTYPES, Kind, operation

KEPT = 512  # rounds of each group
NO_PARTNER = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Signature:
    """What a rank called: operation, bytes, dtype and shape of what all ranks give alike, root or peer (as a rank of the
    group; None where there is none)."""

    op: int
    size_bytes: int
    dtype: int
    shape: int
    partner: int | None

    def __str__(self) -> str:
        name = operation(self.op)
        parts = [f"{self.size_bytes} bytes of {dtype_name(self.dtype)}"] if self.size_bytes else []
        parts += [f"root {self.partner}"] if self.partner is not None else []
        return f"{name} ({', '.join(parts)})" if parts else name


@dataclass(slots=True)
class Round:
    """One operation of a group: by rank, what it called, when it entered and when that ended (ns of its host's clock),
    and who ended it in error."""

    group: int
    sequence: int
    called: dict[int, Signature] = field(default_factory=dict)
    entered_ns: dict[int, int] = field(default_factory=dict)
    ended_ns: dict[int, int] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)


class Rounds:
    """All groups' recent rounds."""

    def __init__(self) -> None:
        self.groups: dict[int, dict[int, Round]] = defaultdict(dict)
        self._changed: dict[tuple[int, int], Round] = {}

    def take(self, rank: int, records: npt.NDArray[np.void]) -> None:
        """New records of one rank (`core.events.RECORD`), oldest first."""
        for time_ns, group, sequence, size, shape, op, partner, kind, dtype, *_ in records.tolist():
            rounds = self.groups[group]
            found = rounds.get(sequence)
            if found is None:
                if len(rounds) == KEPT and sequence < next(iter(rounds)):
                    continue  # of a rank that is hopelessly late: its round is forgotten
                found = rounds[sequence] = Round(group, sequence)
                if len(rounds) > KEPT:
                    del rounds[next(iter(rounds))]
            if kind == Kind.ENTERED:
                known = None if partner == NO_PARTNER else partner
                found.called[rank] = Signature(op, size, dtype, shape, known)
                found.entered_ns[rank] = time_ns
            elif kind in (Kind.DONE, Kind.FAILED):
                found.ended_ns[rank] = time_ns
                if kind == Kind.FAILED:
                    found.failed.add(rank)
            self._changed[group, sequence] = found

    def news(self) -> dict[tuple[int, int], Round]:
        """The rounds that changed since the last time this was asked."""
        news, self._changed = self._changed, {}
        return news

    def get(self, group: int, sequence: int) -> Round | None:
        return self.groups[group].get(sequence) if group in self.groups else None

    def forget(self) -> None:
        """A new process took a rank, as when a launcher starts the job again: all numbers start again."""
        self.groups.clear()
        self._changed.clear()


def dtype_name(code: int) -> str:
    return DTYPES[code] if 0 <= code < len(DTYPES) else DTYPES[0]
