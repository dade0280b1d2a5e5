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
_FRAME, _RECORDS_AT = struct.Struct("<5Q2I2Q"), HEADER_BYTES + FRAMES * FRAME.itemsize
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


class Ring:
    """A ring that is open. Each read is checked anew: it is another process's. Raises OSError where there is none."""

    def __init__(self, path: Path | str) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._file)

    def state(self) -> RingState:
        """Raises ConfigError when it is not a ring; nothing is allocated by what the file claims."""
        data = os.pread(self._file, _RECORDS_AT, 0)
        header = _header(self._path, data)
        rank, world, pid, goodbye, pid_start, written, groups = header[3:]
        if groups > FRAMES or len(data) < _RECORDS_AT:
            raise ConfigError(
                f"{self._path} is not a whole ring: {groups} groups in {len(data)} bytes; remove the file"
            )
        told = _FRAME.iter_unpack(data[HEADER_BYTES : HEADER_BYTES + groups * FRAME.itemsize])
        frames = [
            GroupFrame(group, entered, entered_ns, done, op, failed, waiting)
            for group, entered, entered_ns, done, _, op, failed, _, waiting in told
        ]
        return RingState(rank, world, pid, pid_start, goodbye, written, frames)

    def new(self, seen: int) -> tuple[bytes, int]:
        """The records after the first `seen` (of `RECORD`), oldest first, and how many there are now. What was overwritten
        meanwhile is left out. Raises ConfigError as `state` does."""
        header = _header(self._path, os.pread(self._file, _HEADER.size, 0))
        capacity, written = header[2], header[8]
        if not 0 < capacity <= MAX_CAPACITY:
            raise ConfigError(f"{self._path} is not a whole ring: {capacity} records; remove the file")
        first = max(seen, written - capacity)
        if first >= written:
            return b"", written
        data = b"".join(
            os.pread(self._file, (end - begin) * RECORD.itemsize, _RECORDS_AT + begin * RECORD.itemsize)
            for begin, end in _stretches(first, written, capacity)
        )
        if len(data) != (written - first) * RECORD.itemsize:
            raise ConfigError(f"{self._path} is not a whole ring: it ends before record {written}; remove the file")
        lost = max(self.written() - capacity - first + 1, 0)
        return data[lost * RECORD.itemsize :], written

    def written(self) -> int:
        """How many records there are now. Cheap, and not checked: only what changes tells."""
        found = os.pread(self._file, _U64.size, _WRITTEN_AT)
        return int(_U64.unpack(found)[0]) if len(found) == _U64.size else 0


def read_state(path: Path) -> RingState:
    """Raises ConfigError when `path` is not a ring; nothing is allocated by what the file claims."""
    with Ring(path) as ring:
        return ring.state()


def read_records(path: Path) -> tuple[npt.NDArray[np.void], int]:
    """The records still in the ring, oldest first, and how many were overwritten."""
    data = path.read_bytes()
    capacity, written = _header(path, data)[2], _header(path, data)[8]
    if not 0 < capacity <= MAX_CAPACITY or len(data) < _RECORDS_AT + capacity * RECORD.itemsize:
        raise ConfigError(
            f"{path} is not a whole ring: {capacity} records do not fit {len(data)} bytes; remove the file"
        )
    records = np.frombuffer(data, RECORD, count=capacity, offset=_RECORDS_AT)
    first = written % capacity if written > capacity else 0
    kept = min(written, capacity)
    return np.concatenate([records[first:], records[:first]])[:kept], max(written - capacity, 0)


def read_new(path: Path, seen: int) -> tuple[npt.NDArray[np.void], int]:
    """The records after the first `seen`, oldest first, and how many there are now. What was overwritten meanwhile is
    left out."""
    with Ring(path) as ring:
        data, written = ring.new(seen)
    return np.frombuffer(data, RECORD), written


def _stretches(first: int, end: int, capacity: int) -> list[tuple[int, int]]:
    """Where the records first … end-1 lie: one stretch, or two around the ring's end."""
    begin, count = first % capacity, end - first
    if begin + count <= capacity:
        return [(begin, begin + count)]
    return [(begin, capacity), (0, begin + count - capacity)]


def _header(path: Path | str, data: bytes) -> tuple[int, ...]:
    if len(data) < _HEADER.size or data[:8] != MAGIC:
        raise ConfigError(f"{path} is not an event ring: it starts with {data[:8]!r}, not {MAGIC!r}")
    fields = _HEADER.unpack_from(data)
    if fields[1] != 1:
        raise ConfigError(f"{path} is a ring of version {fields[1]}; this version reads 1")
    return fields
