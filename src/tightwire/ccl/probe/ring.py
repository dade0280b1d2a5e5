"""Reading a rank's event ring, while it is written or after its writer died. The writer is native (`_ring`).

offset 0      header: magic "TWRING01", u32 version, capacity, rank, world, pid, goodbye; u64 pid_start, written, groups
offset 4096   256 probing frames of 64 bytes, one for each group of this rank, rewritten in place
then          `capacity` records of 64 bytes (`core.events.RECORD`), record n at n mod capacity
"""

from __future__ import annotations

import os
import struct
from enum import IntEnum
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from tightwire.core.events import RECORD
from tightwire.errors import ConfigError

MAGIC = b"TWRING01"
HEADER_BYTES, FRAMES = 4096, 256
_HEADER = struct.Struct("<8s6I3Q")
_U64, _WRITTEN_AT = struct.Struct("<Q"), 40
FRAME = np.dtype(
    [
        ("group", "<u8"), ("entered_seq", "<u8"), ("entered_ns", "<u8"), ("done_count", "<u8"), ("done_ns", "<u8"),
        ("op", "<u4"), ("failed", "<u4"), ("bytes", "<u8"), ("waiting", "<u8"),
    ]
)  # fmt: skip
MAX_CAPACITY = 2**24


class GroupFrame(msgspec.Struct, frozen=True):
    """One rank in one group (or pair): it entered `entered_seq` operations, `done_count` ended, `failed` of these in
    error; `waiting` is the operation in whose `wait` it is known to be, 0 for none."""

    group: int
    entered_seq: int
    entered_ns: int
    done_count: int
    op: int
    failed: int = 0
    waiting: int = 0


class Goodbye(IntEnum):
    """How a rank took its leave: `NONE` while it runs and when it was killed, `ASKED` after SIGTERM."""

    NONE = 0
    IN_ORDER = 1
    ERROR = 2
    ASKED = 3


class RingState(msgspec.Struct, frozen=True):
    """`goodbye`: one of `Goodbye`."""

    rank: int
    world: int
    pid: int
    pid_start: int
    goodbye: int
    written: int
    frames: list[GroupFrame]


def read_state(path: Path) -> RingState:
    """Raises ConfigError when `path` is not a ring; nothing is allocated by what the file claims."""
    with path.open("rb", buffering=0) as file:
        data = file.read(HEADER_BYTES + FRAMES * FRAME.itemsize) or b""
    header = _header(path, data)
    rank, world, pid, goodbye, pid_start, written, groups = header[3:]
    if groups > FRAMES or len(data) < HEADER_BYTES + FRAMES * FRAME.itemsize:
        raise ConfigError(f"{path} is not a whole ring: {groups} groups in {len(data)} bytes; remove the file")
    raw = np.frombuffer(data, FRAME, count=groups, offset=HEADER_BYTES)
    frames = [
        GroupFrame(
            int(f["group"]), int(f["entered_seq"]), int(f["entered_ns"]), int(f["done_count"]), int(f["op"]),
            int(f["failed"]), int(f["waiting"]),
        )
        for f in raw
    ]  # fmt: skip
    return RingState(rank, world, pid, pid_start, goodbye, written, frames)


def read_records(path: Path) -> tuple[npt.NDArray[np.void], int]:
    """The records still in the ring, oldest first, and how many were overwritten."""
    data = path.read_bytes()
    capacity, written = _header(path, data)[2], _header(path, data)[8]
    start = HEADER_BYTES + FRAMES * FRAME.itemsize
    if not 0 < capacity <= MAX_CAPACITY or len(data) < start + capacity * RECORD.itemsize:
        raise ConfigError(
            f"{path} is not a whole ring: {capacity} records do not fit {len(data)} bytes; remove the file"
        )
    records = np.frombuffer(data, RECORD, count=capacity, offset=start)
    first = written % capacity if written > capacity else 0
    kept = min(written, capacity)
    return np.concatenate([records[first:], records[:first]])[:kept], max(written - capacity, 0)


def read_new(path: Path, seen: int) -> tuple[npt.NDArray[np.void], int]:
    """The records after the first `seen`, oldest first, and how many there are now. What was overwritten meanwhile is
    left out."""
    start = HEADER_BYTES + FRAMES * FRAME.itemsize
    with path.open("rb") as file:
        header = _header(path, file.read(_HEADER.size))
        capacity, written = header[2], header[8]
        if not 0 < capacity <= MAX_CAPACITY:
            raise ConfigError(f"{path} is not a whole ring: {capacity} records; remove the file")
        first = max(seen, written - capacity)
        if first >= written:
            return np.zeros(0, RECORD), written
        parts = []
        for begin, end in _stretches(first, written, capacity):
            file.seek(start + begin * RECORD.itemsize)
            parts.append(file.read((end - begin) * RECORD.itemsize))
        file.seek(0)
        now = _header(path, file.read(_HEADER.size))[8]
    data = b"".join(parts)
    if len(data) != (written - first) * RECORD.itemsize:
        raise ConfigError(f"{path} is not a whole ring: it ends before record {written}; remove the file")
    return np.frombuffer(data, RECORD)[max(now - capacity - first + 1, 0) :], written


def read_written(path: Path) -> int | None:
    """How many records there are now; None where there is no ring. Cheap, and not checked: only what changes tells."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        found = os.pread(descriptor, _U64.size, _WRITTEN_AT)
    finally:
        os.close(descriptor)
    return int(_U64.unpack(found)[0]) if len(found) == _U64.size else None


def _stretches(first: int, end: int, capacity: int) -> list[tuple[int, int]]:
    """Where the records first … end-1 lie: one stretch, or two around the ring's end."""
    begin, count = first % capacity, end - first
    if begin + count <= capacity:
        return [(begin, begin + count)]
    return [(begin, capacity), (0, begin + count - capacity)]


def _header(path: Path, data: bytes) -> tuple[int, ...]:
    if len(data) < _HEADER.size or data[:8] != MAGIC:
        raise ConfigError(f"{path} is not an event ring: it starts with {data[:8]!r}, not {MAGIC!r}")
    fields = _HEADER.unpack_from(data)
    if fields[1] != 1:
        raise ConfigError(f"{path} is a ring of version {fields[1]}; this version reads 1")
    return fields
