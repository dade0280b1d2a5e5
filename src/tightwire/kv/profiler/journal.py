"""What a profiling run has measured, on disk: one JSON line each, safe before it counts.

A run asks only for what follows from its settings and from earlier answers, so a run that finds its answers in a journal
goes the same way again: resuming is running again. A line that a kill cut short is dropped.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec

from tightwire.errors import ConfigError
from tightwire.kv.profiler.rates import Rates
from tightwire.kv.profiler.search import Fidelity, Settings
from tightwire.kv.profiles import Profile

Sample = Fidelity | Literal["fresh"]  # fresh: as many prompts as full, none of which the search saw


class Began(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """What was profiled: answers to anything else are worth nothing here."""

    model: str
    space: str
    settings: Settings


class Rated(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    rates: Rates


class Measured(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The relative `quality` of a strategy on a sample of prompts."""

    strategy: str
    sample: Sample
    quality: float


class Verified(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    profile: Profile


Line = Began | Rated | Measured | Verified


class Journal:
    """The file `path`, new or of an earlier run that `began` the same way; ConfigError if it began otherwise."""

    def __init__(self, path: Path, began: Began) -> None:
        self.rates: Rates | None = None
        self.measured: dict[tuple[str, Sample], float] = {}
        self.verified: dict[str, Profile] = {}
        lines, whole = _read(path)
        if lines and lines[0] != began:
            raise ConfigError(
                f"journal {path} is of another model, space or settings; give the settings of the run that is to be "
                "resumed, or remove the file to begin anew"
            )
        for line in lines[1:]:
            self._keep(line)
        self._file = open(path, "ab")  # noqa: SIM115  closed by __exit__
        self._file.truncate(whole)
        if not lines:
            self.add(began)

    def add(self, line: Line) -> None:
        """`line` is on disk when this returns."""
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._keep(line)

    def _keep(self, line: Line) -> None:
        match line:
            case Rated(rates):
                self.rates = rates
            case Measured(strategy, sample, quality):
                self.measured[strategy, sample] = quality
            case Verified(profile):
                self.verified[profile.strategy] = profile

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def _read(path: Path) -> tuple[list[Line], int]:
    """(the whole lines of the file, the bytes that they take)"""
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    try:
        return [msgspec.json.decode(line, type=Line) for line in data[:whole].splitlines()], whole
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"journal {path}: {error}; remove the file to begin anew") from error
