"""Many connections in columns, for what looks at all of a job's at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tightwire.ccl.inet_diag import Socket
from tightwire.ccl.transport import Connection

CONNECTION = np.dtype(
    [
        ("rank", "<u4"), ("peer", "<u4"), ("local", "S48"), ("remote", "S48"), ("queued_bytes", "<u8"), ("resending", "?"),
        ("retransmits", "<u4"), ("acked_bytes", "<f8"), ("received_bytes", "<f8"), ("busy_s", "<f8"),
        ("receiver_limited_s", "<f8"), ("rtt_s", "<f8"), ("delivery_bytes_per_s", "<f8"),
    ]
)  # fmt: skip
Connections = npt.NDArray[np.void]
_COUNTS, _TIMES = ("acked_bytes", "received_bytes", "delivery_bytes_per_s"), ("busy_s", "receiver_limited_s", "rtt_s")


def columns(connections: Sequence[Connection]) -> Connections:
    """[connections] of `CONNECTION`; what is not known is NaN."""
    found = np.zeros(len(connections), CONNECTION)
    if not len(connections):
        return found
    found["rank"], found["peer"] = [each.rank for each in connections], [each.peer for each in connections]
    for name, given in zip(Socket._fields[1:], list(zip(*[each.socket for each in connections], strict=True))[1:], strict=True):
        found[name] = np.array(given, found.dtype[name])  # of None NaN
    return found


def connection(row: np.void) -> Connection:
    """One of them as it was; which inode it had is not kept."""
    acked, received, rate = (None if np.isnan(row[name]) else int(row[name]) for name in _COUNTS)
    busy_s, limited_s, rtt_s = (None if np.isnan(row[name]) else float(row[name]) for name in _TIMES)
    socket = Socket(
        0, row["local"].decode(), row["remote"].decode(), int(row["queued_bytes"]), bool(row["resending"]),
        int(row["retransmits"]), acked, received, busy_s, limited_s, rtt_s, rate,
    )  # fmt: skip
    return Connection(int(row["rank"]), int(row["peer"]), socket)


def keys(rows: Connections) -> npt.NDArray[np.uint64]:
    """A number for each connection's end: the same at every look. [connections]"""
    words = [np.ascontiguousarray(rows[name]).view(("<u8", 6)) for name in ("local", "remote")]
    key = rows["rank"].astype(np.uint64)
    for column in np.concatenate(words, axis=1).T:
        key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key
