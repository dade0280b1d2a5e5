"""What the driver and its two workers say to each other: one JSON object a line, beside the link under test."""

from __future__ import annotations

import msgspec

from tightwire.kv.control.records import Decision
from tightwire.kv.profiles import Profile


class Calibrate(msgspec.Struct, frozen=True, tag=True):
    """Measure `strategies` on the KV of `prompts`."""

    prompts: list[list[int]]
    strategies: list[str]


class Connect(msgspec.Struct, frozen=True, tag=True):
    """Prefill worker: connect to the decode worker and probe the link; forget what was known of an older one."""

    endpoint: str


class Prefill(msgspec.Struct, frozen=True, tag=True):
    """Prefill `ids` and send their KV; `strategy` "auto" lets the controller choose."""

    transfer_id: str
    ids: list[int]
    strategy: str


class Decode(msgspec.Struct, frozen=True, tag=True):
    """Take the KV of `transfer_id` and continue `ids` by `count` tokens; None: prefill here, without a transfer."""

    transfer_id: str | None
    ids: list[int]
    count: int


class Quit(msgspec.Struct, frozen=True, tag=True):
    pass


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A worker is up; a decode worker says where it listens."""

    endpoint: str | None = None
    link_bytes_per_s: float | None = None


class Calibrated(msgspec.Struct, frozen=True, tag=True):
    profiles: list[Profile]


class Sent(msgspec.Struct, frozen=True, tag=True):
    """Prefill and transfer as measured; times on the machine's monotonic clock."""

    prefill_s: float
    transfer_s: float
    raw_bytes: int
    wire_bytes: int
    strategy: str
    decision: Decision | None
    error: str | None


class Decoded(msgspec.Struct, frozen=True, tag=True):
    tokens: list[int]
    first_token_at_s: float
    done_at_s: float
    recomputed: bool
    error: str | None


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The worker could not do it; it stays up."""

    error: str


Command = Calibrate | Connect | Prefill | Decode | Quit
Reply = Ready | Calibrated | Sent | Decoded | Failed
