"""Where the steps of a KV transfer go as events: a ring, a log, a test's list. Both sides name a transfer alike."""

from __future__ import annotations

from typing import Protocol

from tightwire.core.events import OPERATION_CODES, Kind, group_fingerprint

_OPERATION = OPERATION_CODES["kv_transfer"]
_SEQ = 1  # a transfer's name is used for one operation


class Trace(Protocol):
    """Called with locks held: it must be quick and must not raise. `size_bytes`: moved so far."""

    def add(self, kind: Kind, group: int, seq: int, operation: int, size_bytes: int) -> None: ...


def trace_transfer(trace: Trace | None, kind: Kind, name: str, size_bytes: int = 0) -> None:
    """One step in the life of the transfer called `name`, if anybody listens."""
    if trace is not None:
        trace.add(kind, group_fingerprint(name, ()), _SEQ, _OPERATION, size_bytes)
