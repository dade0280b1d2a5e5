"""Profile: a strategy with what was measured about it. The profiler writes a ProfileLibrary, the controller reads it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tightwire.errors import ConfigError
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.control.error import attention_error
from tightwire.kv.strategy import Strategy

MAX_LIBRARY_BYTES = 64 * 2**20


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ratio` = raw bytes ÷ frame bytes; speeds in raw bytes per second, encode and decode apart; `quality` relative
    to raw KV, 1 is equal; `error`: median and upper end of `attention_error` over single blocks, where it was measured.
    Raises ConfigError for values that cannot be."""

    strategy: str
    ratio: float
    encode_bytes_per_s: float
    decode_bytes_per_s: float
    quality: float
    error: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("ratio", "encode_bytes_per_s", "decode_bytes_per_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"profile {self.strategy!r}: {name}={getattr(self, name)} must be above zero")
        if not 0 <= self.quality <= 2:
            raise ConfigError(f"profile {self.strategy!r}: quality={self.quality} must be between 0 and 2")
        if self.error is not None and not 0 <= self.error[0] <= self.error[1] < float("inf"):
            raise ConfigError(
                f"profile {self.strategy!r}: error={self.error} must be a median and an upper end above it"
            )
        Strategy.parse(self.strategy)


class ProfileLibrary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Profiles of one model on one kind of machine; `provenance` says how they were obtained. Raw is always in it."""

    model: str
    profiles: list[Profile]
    provenance: dict[str, str]

    def __post_init__(self) -> None:
        names = [profile.strategy for profile in self.profiles]
        if "raw" not in names or len(set(names)) != len(names):
            raise ConfigError(f"a library holds raw once and every strategy once; this one holds {names}")

    def save(self, path: Path) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    @classmethod
    def load(cls, path: Path) -> ProfileLibrary:
        """Raises ConfigError that names the file and what is wrong in it."""
        try:
            if path.stat().st_size > MAX_LIBRARY_BYTES:
                raise ConfigError(f"{path} has {path.stat().st_size} bytes; the limit is {MAX_LIBRARY_BYTES}")
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"profile library {path}: {error}; write one with tightwire kv profile") from error


def measure(
    strategies: Sequence[Strategy],
    blocks: Sequence[KVBlock],
    quality: Callable[[Strategy], float],
    repeats: int = 3,
) -> list[Profile]:
    """Profiles of `strategies` on `blocks` (calibration KV, cut as they will be sent), best of `repeats` timings."""
    profiles = []
    for strategy in strategies:
        raw_bytes = sum(block.raw_bytes for block in blocks)
        encode_s = decode_s = float("inf")
        for _ in range(repeats):
            start_s = time.perf_counter()
            frames = [encode_block(block, strategy) for block in blocks]
            middle_s = time.perf_counter()
            arrived = [decode_block(frame) for frame in frames]
            encode_s = min(encode_s, middle_s - start_s)
            decode_s = min(decode_s, time.perf_counter() - middle_s)
        ratio = raw_bytes / sum(map(len, frames))
        errors = sorted(attention_error(was, is_) for was, is_ in zip(blocks, arrived, strict=True))
        profiles.append(
            Profile(
                str(strategy), ratio, raw_bytes / encode_s, raw_bytes / decode_s, quality(strategy),
                (errors[len(errors) // 2], errors[-1]),
            )
        )  # fmt: skip
    return profiles
