"""Many connections in columns, for what looks at all of a job's at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tightwire.ccl.transport import Connection

CONNECTION = np.dtype(
    [
        ("rank", "<u4"), ("peer", "<u4"), ("local", "S48"), ("remote", "S48"), ("queued_bytes", "<u8"), ("resending", "?"),
        ("retransmits", "<u4"), ("acked_bytes", "<f8"), ("received_bytes", "<f8"), ("busy_s", "<f8"),
        ("receiver_limited_s", "<f8"), ("rtt_s", "<f8"), ("delivery_bytes_per_s", "<f8"),
    ]
)  # fmt: skip
Connections = npt.NDArray[np.void]
_OPTIONAL = ("acked_bytes", "received_bytes", "busy_s", "receiver_limited_s", "rtt_s", "delivery_bytes_per_s")


def columns(connections: Sequence[Connection]) -> Connections:
    """[connections] of `CONNECTION`; what is not known is NaN."""
    found = np.zeros(len(connections), CONNECTION)
    for name in ("rank", "peer", "queued_bytes", "resending", "retransmits"):
        found[name] = [getattr(each, name) for each in connections]
    for name in ("local", "remote"):
        found[name] = [getattr(each, name).encode() for each in connections]
    for name in _OPTIONAL:
        given = (getattr(each, name) for each in connections)
        found[name] = [np.nan if value is None else value for value in given]
    return found


def connection(row: np.void) -> Connection:
    """One of them as it was."""
    known = {name: None if np.isnan(row[name]) else float(row[name]) for name in _OPTIONAL}
    counts = {
        name: None if known[name] is None else int(row[name])
        for name in ("acked_bytes", "received_bytes", "delivery_bytes_per_s")
    }
    return Connection(
        int(row["rank"]), int(row["peer"]), row["local"].decode(), row["remote"].decode(), int(row["queued_bytes"]),
        bool(row["resending"]), int(row["retransmits"]), counts["acked_bytes"], counts["received_bytes"], known["busy_s"],
        known["receiver_limited_s"], known["rtt_s"], counts["delivery_bytes_per_s"],
    )  # fmt: skip


def keys(rows: Connections) -> npt.NDArray[np.uint64]:
    """A number for each connection's end: the same at every look. [connections]"""
    words = [np.ascontiguousarray(rows[name]).view(("<u8", 6)) for name in ("local", "remote")]
    key = rows["rank"].astype(np.uint64)
    for column in np.concatenate(words, axis=1).T:
        key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key
