"""Decisions on disk: one JSON object a line, bounded, for `tightwire kv explain` and for whoever counts them.

Two files at most: the one that is written, and the one before it (`.1`), each up to half of `max_bytes`.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import msgspec

from tightwire.errors import ConfigError
from tightwire.kv.control.records import Record

DEFAULT_MAX_BYTES = 16 * 2**20
DEFAULT_NAME = "decisions.jsonl"


class DecisionLog:
    """Appends to `path` (a folder: `decisions.jsonl` in it). One writer; raises ConfigError when it cannot write."""

    def __init__(self, path: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if max_bytes < 2:
            raise ConfigError(f"max_bytes={max_bytes} is too small for a log; use 1000000 or more")
        self.path, self._most = file_of(path), max_bytes // 2
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
        except OSError as error:
            raise ConfigError(f"decisions={str(path)!r}: {error}; give a file or folder that can be written") from error
        self._encoder = msgspec.json.Encoder()

    def write(self, record: Record) -> None:
        """Flushed: a reader sees it at once."""
        line = self._encoder.encode(record) + b"\n"
        if self._file.tell() and self._file.tell() + len(line) > self._most:
            self._file.close()
            self.path.replace(_older(self.path))
            self._file = self.path.open("ab")
        self._file.write(line)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(path: Path, count: int | None = None) -> list[Record]:
    """The last `count` records, oldest first; lines that a killed writer left half-written are passed over. Raises
    ConfigError when there is no log."""
    path = file_of(path)
    files = [file for file in (_older(path), path) if file.is_file()]
    if not files:
        raise ConfigError(
            f"there is no decision log at {str(path)!r}; give the file or folder of the setting decisions"
        )
    decoder = msgspec.json.Decoder(Record)
    records = []
    for line in chain.from_iterable(file.read_bytes().splitlines() for file in files):
        try:
            records.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return records if count is None else records[len(records) - min(count, len(records)) :]


def file_of(path: Path) -> Path:
    """The log's file, where `path` may be its folder."""
    return path / DEFAULT_NAME if path.is_dir() or not path.suffix else path


def _older(path: Path) -> Path:
    return path.with_name(path.name + ".1")
