"""A folder as a store: `ROOT/ab/abcdef….twkv`, one file a value. Several processes may share it.

- A value is written to `ROOT/tmp`, then renamed: it is there whole or not at all, whoever is killed.
- A file's modification time is when it was last used. When a process has added a sixteenth of `max_bytes`, or the
  folder would grow past it, it scans the folder, which is the only index, and removes what was used longest ago until
  a sixteenth is free. Every further process that writes can add a sixteenth unseen meanwhile.
- Only files of the names above are ever counted or removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tightwire.errors import ConfigError

_SUFFIX, _PART = ".twkv", ".part"
_NAME = re.compile(r"[0-9a-z]{16,128}\.twkv")
_FOLDER = re.compile(r"[0-9a-z]{2}")
_ABANDONED_S = 600.0  # a temporary file that old belongs to nobody
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Directory:
    """`root` is made if need be. `durable`: a value survives a power failure right after it was put; without, it may
    be lost or damaged then, which its checksum shows. Raises ConfigError when the folder cannot be used."""

    parallel = 2

    def __init__(
        self, root: Path, max_bytes: int, *, durable: bool = False, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        if max_bytes < 1:
            raise ConfigError(f"max_bytes={max_bytes}: must be above zero, like 10 GiB")
        self._root, self._temporary, self._max_bytes = root, root / "tmp", max_bytes
        self._durable, self._now_ns = durable, now_ns
        self._lock = threading.Lock()
        self._known_bytes: int | None = None  # at the last scan
        self._added_bytes = 0  # since then
        try:
            self._temporary.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"store folder {root}: {error}; name one that this process may write to") from error

    def get(self, key: str, max_bytes: int) -> memoryview | None:
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            self.remove(key)  # somebody put a link there
            return None
        with open(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return None
            if status.st_size > max_bytes:
                self.remove(key)
                return None
            data, at = np.empty(status.st_size, np.uint8).data, 0
            while at < len(data) and (count := file.readinto(data[at:])):
                at += count
        return data[:at].toreadonly()

    def put(self, key: str, value: memoryview) -> bool:
        path = self._path(key)
        if os.path.exists(path):
            return True
        if len(value) > self._max_bytes or not self._reserve(len(value)):
            return False
        part = self._temporary / f"{uuid.uuid4().hex}{_PART}"
        try:
            with open(part, "xb", buffering=0) as file:
                rest = value
                while rest:
                    rest = rest[file.write(rest) :]
                if self._durable:
                    os.fsync(file.fileno())
            os.utime(part, ns=(self._now_ns(),) * 2)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno in _NO_ROOM:
                return False
            raise
        return True

    def contains(self, keys: Sequence[str]) -> int:
        now_ns = self._now_ns()
        for index, key in enumerate(keys):
            try:
                # One call asks and marks. A nanosecond apart, so that the beginning of a prefix is evicted last.
                os.utime(self._path(key), ns=(now_ns - index,) * 2)
            except FileNotFoundError:
                return index
            except PermissionError:
                continue  # another user's file: it is there, but not ours to mark
        return len(keys)

    def first(self, keys: Sequence[str]) -> int:
        return next((index for index, key in enumerate(keys) if self.contains([key])), len(keys))

    def remove(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(key))

    def close(self) -> None:
        return

    def _path(self, key: str) -> str:  # a Path takes longer to build than the file to be asked for
        return f"{self._root}/{key[:2]}/{key}{_SUFFIX}"

    def _reserve(self, size: int) -> bool:
        """Whether `size` more bytes fit, after evicting what must go for them."""
        with self._lock:
            slack = self._max_bytes // 16
            known, added = self._known_bytes, self._added_bytes + size
            if known is None or known + added > self._max_bytes or added > slack:
                known, added = self._evict(self._max_bytes - max(slack, size), size), size
            self._known_bytes, self._added_bytes = known, added
            return known + added <= self._max_bytes

    def _evict(self, target_bytes: int, size: int) -> int:
        """Bytes in the folder, after removing what was used longest ago if `size` more do not fit: until at most
        `target_bytes` are left."""
        self._clean()
        found = sorted(self._files())
        total = sum(each for _, each, _ in found)
        if total + size <= self._max_bytes:
            return total
        for _, each, path in found:
            if total <= target_bytes:
                break
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.unlink(path)
            total -= each
        return total

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """(last used in ns, bytes, path) of every value."""
        for folder in os.scandir(self._root):
            if _FOLDER.fullmatch(folder.name) and folder.is_dir(follow_symlinks=False):
                for entry in os.scandir(folder):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if _NAME.fullmatch(entry.name) and stat.S_ISREG(status.st_mode):
                            yield status.st_mtime_ns, status.st_size, entry.path

    def _clean(self) -> None:
        """Remove what killed writers left behind."""
        for entry in os.scandir(self._temporary):
            with contextlib.suppress(FileNotFoundError):
                age_s = (self._now_ns() - entry.stat(follow_symlinks=False).st_mtime_ns) / 1e9
                if entry.name.endswith(_PART) and age_s > _ABANDONED_S:
                    os.unlink(entry.path)
