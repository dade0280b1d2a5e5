"""What the scheduler's half asks of the worker's half in one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_ID_CHARS = 128
PUSH_TOKENS = 128  # a piece ends at a multiple of these, except the prompt's last one
_KINDS = {
    "endpoint": str, "strategy": str, "quality_budget": int | float, "slo_s": int | float, "workload": str, "stream": bool,
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What a request's `kv_transfer_params` say beside `transfer_id`; None where the settings decide.

    `stream` False holds everything back until the prompt is complete. Raises ValueError that names the key."""

    endpoint: str | None = None
    strategy: str | None = None
    quality_budget: float | None = None
    slo_s: float | None = None
    workload: str | None = None
    stream: bool = True

    @classmethod
    def parse(cls, params: Mapping[str, Any]) -> Options:
        found: dict[str, Any] = {}
        for key, kind in _KINDS.items():
            value = params.get(key)
            if value is None:
                continue
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"kv_transfer_params: {key}={value!r} has the wrong type")
            found[key] = value
        return cls(**found)


@dataclass(frozen=True)
class Move:
    """Tokens [start, stop) of one request, whose token t lies in block `block_ids[t // block_size]`."""

    request_id: str
    transfer_id: str
    block_ids: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Push(Move):
    """To the peer: a piece of the `total` tokens of this transfer, of which `computed` cost no compute here."""

    total: int = 0
    computed: int = 0
    options: Options = Options()

    @property
    def last(self) -> bool:
        return self.stop == self.total


@dataclass(frozen=True)
class Shelved(Move):
    """To or from the store: `tokens` are the prompt's, as far as the store's keys need them."""

    tokens: tuple[int, ...] = ()


@dataclass
class Plan:
    """`cancels`: requests that ended before what was begun for them. `scheduled`: tokens computed in this step."""

    pushes: list[Push] = field(default_factory=list)
    pulls: list[Move] = field(default_factory=list)
    saves: list[Shelved] = field(default_factory=list)
    fetches: list[Shelved] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)
    scheduled: int = 0
