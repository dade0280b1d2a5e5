"""The Python twin of the native ring writer (`tightwire._ring.Writer`): same layout, same methods, slower.

It serves where the native module could not be built, and as the reference that the tests hold the native one to.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

from tightwire.ccl.probe.ring import FRAME, FRAMES, HEADER_BYTES, MAGIC, MAX_CAPACITY
from tightwire.core.events import RECORD, Kind
from tightwire.errors import ConfigError

_RECORD = struct.Struct("<5Q2I2HIQ")
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_GOODBYE_AT, _WRITTEN_AT, _GROUPS_AT = 28, 40, 48
_RECORDS_AT = HEADER_BYTES + FRAMES * FRAME.itemsize
assert _RECORD.size == RECORD.itemsize


class Writer:
    """One rank's ring, written by one thread at a time."""

    def __init__(self, path: str, capacity: int, rank: int, world: int, pid: int, pid_start: int) -> None:
        if not 0 < capacity <= MAX_CAPACITY:
            raise ConfigError(f"capacity {capacity} is out of range; give 1 to {MAX_CAPACITY} records")
        fresh = Path(path + ".new")
        size_bytes = _RECORDS_AT + capacity * RECORD.itemsize
        with fresh.open("wb+") as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)  # now, so that a full disk is an error and not a SIGBUS
            self._map = mmap.mmap(file.fileno(), size_bytes)
        struct.pack_into("<8s6I3Q", self._map, 0, MAGIC, 1, capacity, rank, world, pid, 0, pid_start, 0, 0)
        self._capacity, self._groups = capacity, 0
        self.written = 0
        fresh.rename(path)

    def add_group(self, group: int) -> int:
        """The number of the group's frame; -1 when all are taken (its records still go into the ring)."""
        if self._groups == FRAMES:
            return -1
        slot, self._groups = self._groups, self._groups + 1
        _U64.pack_into(self._map, HEADER_BYTES + slot * FRAME.itemsize, group)
        _U64.pack_into(self._map, _GROUPS_AT, self._groups)
        return slot

    def entered(self, slot: int, group: int, seq: int, op: int, bytes: int, dtype: int, shape: int, peer: int) -> None:
        now_ns = time.monotonic_ns()
        self._write(now_ns, group, seq, bytes, shape, op, peer, Kind.ENTERED, dtype, 0, 0)
        if 0 <= slot < FRAMES:
            at = HEADER_BYTES + slot * FRAME.itemsize
            _U32.pack_into(self._map, at + 40, op)
            _U64.pack_into(self._map, at + 48, bytes)
            _U64.pack_into(self._map, at + 16, now_ns)
            _U64.pack_into(self._map, at + 8, seq)

    def done(self, slot: int, group: int, seq: int, op: int, failed: bool) -> None:
        now_ns = time.monotonic_ns()
        self._write(now_ns, group, seq, 0, 0, op, 0, Kind.FAILED if failed else Kind.DONE, 0, 0, 0)
        if 0 <= slot < FRAMES:
            at = HEADER_BYTES + slot * FRAME.itemsize
            if failed:
                _U32.pack_into(self._map, at + 44, _U32.unpack_from(self._map, at + 44)[0] + 1)
            _U64.pack_into(self._map, at + 32, now_ns)
            _U64.pack_into(self._map, at + 24, _U64.unpack_from(self._map, at + 24)[0] + 1)

    def waiting(self, slot: int, seq: int) -> None:
        """The rank waits for the end of its operation `seq`; 0 when it no longer does."""
        if 0 <= slot < FRAMES:
            _U64.pack_into(self._map, HEADER_BYTES + slot * FRAME.itemsize + 56, seq)

    def note_sigterm(self) -> None:
        """Nothing: a handler written in Python would run too late, or never. The native writer notes it."""

    def goodbye(self, how: int) -> None:
        _U32.pack_into(self._map, _GOODBYE_AT, how)

    def _write(self, *fields: int) -> None:
        _RECORD.pack_into(self._map, _RECORDS_AT + (self.written % self._capacity) * RECORD.itemsize, *fields)
        self.written += 1
        _U64.pack_into(self._map, _WRITTEN_AT, self.written)
