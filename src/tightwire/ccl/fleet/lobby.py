"""Where agents' messages come in."""

from __future__ import annotations

from typing import Protocol

from tightwire.ccl.fleet.jobs import Jobs


class Lobby(Protocol):
    """`refused` connections of strangers, and messages that were `nonsense`."""

    jobs: Jobs
    refused: int
    nonsense: int
    endpoint: str

    def close(self) -> None: ...
