"""An incident's files. A disk that is full or gone costs the files, and nothing else."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from tightwire.ccl.incident import Incident
from tightwire.ccl.verdict import Verdict

NAME = "verdict.json"


def write(folder: Path, verdict: Verdict, incident: Incident) -> str | None:
    """verdict.json and incident.json in `folder`, whole or not at all. Returns what went wrong, if anything."""
    data = {**msgspec.to_builtins(verdict), "time_to_verdict_s": verdict.time_to_verdict_s}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / NAME, msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n")
        incident.save(folder)
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror or error}"
    return None


def replace(path: Path, data: bytes) -> None:
    """The file has either its old content or all of `data`. Raises OSError."""
    fresh = path.with_name(path.name + ".new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
