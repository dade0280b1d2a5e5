"""What goes into the controller and what comes out: plain facts, written down as they are."""

from __future__ import annotations

import msgspec

from tightwire.kv.strategy import Strategy


class Request(msgspec.Struct, frozen=True):
    """A transfer to decide about: `raw_bytes` in `chunks` pieces of `tokens` tokens. `prefill_s`: compute that is still
    to come, which overlaps the transfer where it is `streamed`; `one_core`: it waits while a piece is encoded.
    `queued_bytes` are on their way before it."""

    raw_bytes: int
    chunks: int = 1
    tokens: int = 0
    prefill_s: float = 0.0
    streamed: bool = True
    workload: str | None = None
    quality_budget: float | None = None
    slo_s: float | None = None
    queued_bytes: int = 0
    one_core: bool = False


class Stages(msgspec.Struct, frozen=True):
    """Seconds of all chunks together at each stage, and `total_s` with their overlap, from the start of the transfer
    until everything is decoded."""

    encode_s: float
    wire_s: float
    decode_s: float
    total_s: float


class Share(msgspec.Struct, frozen=True):
    """What one strategy did of a transfer: `raw_bytes` that became `wire_bytes`, and its stages' seconds."""

    strategy: str
    raw_bytes: int
    wire_bytes: int
    encode_s: float
    decode_s: float


class Outcome(msgspec.Struct, frozen=True):
    """What a transfer really took; `failed` ones teach nothing but that. `prefill_s` where it was measured. `busy`:
    other transfers shared encoder or link, so that the total says nothing about the fixed cost. `shares`: of each
    strategy; empty where there was one."""

    encode_s: float
    wire_s: float
    decode_s: float
    total_s: float
    wire_bytes: int
    prefill_s: float | None = None
    busy: bool = False
    failed: bool = False
    shares: list[Share] = []

    @property
    def mixed(self) -> bool:
        """Several strategies had a part in it, so that its stages and its total are nobody's alone."""
        return len(self.shares) > 1


class Candidate(msgspec.Struct, frozen=True):
    """`predicted` by its profile, `corrected` by what was learnt; `expected_s` its total over what the link may do
    meanwhile, `optimistic_s` at the fast end of what is not known yet; `refused` says why it may not be used."""

    strategy: str
    quality: float
    predicted: Stages
    corrected: Stages
    expected_s: float
    optimistic_s: float
    refused: str | None = None


class Trial(msgspec.Struct, frozen=True):
    """A strategy that may be faster than what is known of it, for so many `pieces` of a transfer."""

    strategy: str
    pieces: int


class Decision(msgspec.Struct, frozen=True):
    """The choice with all that led to it. `second` is what would have been chosen without the first. `trial`: what
    is tried on the way. `send` False: the link is said to be dead, compute it there.
    `probe`: measure the link before relying on this. `revises`: the strategy that it takes over from, in the middle of
    a transfer; `request` is then what is left of it."""

    chosen: str
    reason: str
    candidates: list[Candidate]
    link_bytes_per_s: float | None
    request: Request
    at_s: float = 0.0
    second: str | None = None
    trial: Trial | None = None
    send: bool = True
    probe: bool = False
    revises: str | None = None

    @property
    def strategy(self) -> Strategy:
        return Strategy.parse(self.chosen)

    @property
    def candidate(self) -> Candidate | None:
        return next((c for c in self.candidates if c.strategy == self.chosen), None)


class Record(msgspec.Struct, frozen=True):
    """A decision and what came of it; None: the transfer is not over or was not observed."""

    decision: Decision
    outcome: Outcome | None = None

    @property
    def error(self) -> float | None:
        """Measured ÷ predicted total − 1, predicted with corrections. None where another prediction took its place."""
        candidate = self.decision.candidate
        if self.outcome is None or candidate is None or self.outcome.failed or self.outcome.mixed:
            return None
        return self.outcome.total_s / candidate.corrected.total_s - 1
