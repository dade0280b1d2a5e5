"""Keys of a prefix: a hash chain over its chunks, so that key i depends on every token up to the end of chunk i.

    h(0)   = BLAKE2b-256(MessagePack of ["tightwire prefix 1", fingerprint, strategy class, salt, chunk_tokens])
    h(i+1) = BLAKE2b-256(h(i), the tokens of chunk i as 4-byte little-endian integers)

Key i is h(i+1) in hexadecimal. Where a prompt ends inside a chunk, its tail is a chunk of fewer tokens, with a key of the
same kind; tails end at multiples of TAIL_TOKENS, so that a reader has few to ask for. Whatever the KV of a token depends on is in its key, so equal keys mean equal KV, up to
the strategy that it was stored with.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from tightwire.errors import ConfigError

_VERSION = "tightwire prefix 1"
TAIL_TOKENS = 8
_TOKEN_BYTES = 4


def prefix_keys(
    fingerprint: str, strategy_class: str | None, tokens: Sequence[int], chunk_tokens: int, salt: str = ""
) -> list[str]:
    """One key for each whole chunk of `tokens`. `fingerprint`: the model, its weights and KV layout; `strategy_class`:
    what the stored quality may be, None where any will do; `salt`: whatever else the KV depends on, such as an adapter
    or an image. Raises ConfigError for tokens that are not whole numbers from 0 to 2³² - 1."""
    if chunk_tokens < 1:
        raise ConfigError(f"chunk_tokens={chunk_tokens}: must be 1 or more")
    before, size, keys = _start(fingerprint, strategy_class, chunk_tokens, salt), chunk_tokens * _TOKEN_BYTES, []
    data = _packed(tokens[: len(tokens) // chunk_tokens * chunk_tokens])
    for start in range(0, len(data), size):
        before = _next(before, data[start : start + size])
        keys.append(before.hex())
    return keys


def tail_keys(
    fingerprint: str, strategy_class: str | None, tokens: Sequence[int], chunk_tokens: int, salt: str = ""
) -> list[tuple[int, str]]:
    """(tokens, key) of every tail that may follow the whole chunks of `tokens`, the longest first. Otherwise as
    `prefix_keys`."""
    whole = prefix_keys(fingerprint, strategy_class, tokens, chunk_tokens, salt)
    before = bytes.fromhex(whole[-1]) if whole else _start(fingerprint, strategy_class, chunk_tokens, salt)
    rest = _packed(tokens[len(whole) * chunk_tokens :])
    counts = range(len(rest) // _TOKEN_BYTES // TAIL_TOKENS * TAIL_TOKENS, 0, -TAIL_TOKENS)
    return [(count, _next(before, rest[: count * _TOKEN_BYTES]).hex()) for count in counts]


def _start(fingerprint: str, strategy_class: str | None, chunk_tokens: int, salt: str) -> bytes:
    seed = msgspec.msgpack.encode([_VERSION, fingerprint, strategy_class, salt, chunk_tokens])
    return blake2b(seed, digest_size=32).digest()


def _next(before: bytes, chunk: bytes) -> bytes:
    return blake2b(before + chunk, digest_size=32).digest()


def _packed(tokens: Sequence[int]) -> bytes:
    try:
        return struct.pack(f"<{len(tokens)}I", *tokens)
    except struct.error as error:
        raise ConfigError(f"tokens must be whole numbers from 0 to 2³² - 1: {error}") from error
