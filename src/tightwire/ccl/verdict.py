"""A verdict: what is wrong, who is guilty, how sure we are, and the evidence in words a person can act on."""

from __future__ import annotations

from typing import Literal

import msgspec

AnomalyClass = Literal["H1", "H2", "H3", "S1", "S2", "S3", "undetermined"]
TITLES = {
    "H1": "a rank never entered the collective that the others wait in",
    "H2": "ranks made different calls where all should make the same",
    "H3": "all entered the collective, and its bytes do not move",
    "S1": "a rank computes slowly, and the others wait for it again and again",
    "S2": "communication is slow: a link holds the transfers up",
    "S3": "a rank computes slowly, and a link holds the transfers up",
    "undetermined": "undetermined",
}


class Verdict(msgspec.Struct, frozen=True, rename={"anomaly": "class"}):
    """`anomaly` is the class (`class` in JSON). A guilty link is `a-b`, two ranks. `since_s` and `at_s` are on the host's monotonic clock;
    `ended_s` as well, once the job has recovered."""

    anomaly: AnomalyClass
    guilty_ranks: list[int]
    confidence: Literal["high", "low"]
    cause: str
    group: str
    operation: str
    sequence: int
    waiting_ranks: list[int]
    evidence: list[str]
    since_s: float
    at_s: float
    guilty_links: list[str] = []
    ended_s: float | None = None

    @property
    def is_hang(self) -> bool:
        """The job cannot go on."""
        return not self.anomaly.startswith("S")

    @property
    def who(self) -> str:
        """The guilty ranks, else the guilty links, in words."""
        if self.guilty_ranks:
            return f"rank {', '.join(map(str, self.guilty_ranks))}"
        return f"link {', '.join(self.guilty_links)}" if self.guilty_links else "nobody can be named"

    @property
    def time_to_verdict_s(self) -> float:
        return self.at_s - self.since_s
