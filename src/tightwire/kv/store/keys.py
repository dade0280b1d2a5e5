"""Keys of a prefix: a hash chain over its chunks, so that key i depends on every token up to the end of chunk i.

    h(0)   = BLAKE2b-256(MessagePack of ["tightwire prefix 1", fingerprint, strategy class, salt, chunk_tokens])
    h(i+1) = BLAKE2b-256(h(i), the tokens of chunk i as 4-byte little-endian integers)

Key i is h(i+1) in hexadecimal. Whatever the KV of a token depends on is in its key, so equal keys mean equal KV, up to
the strategy that it was stored with.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from tightwire.errors import ConfigError

_VERSION = "tightwire prefix 1"
_TOKEN_BYTES = 4


def prefix_keys(
    fingerprint: str, strategy_class: str | None, tokens: Sequence[int], chunk_tokens: int, salt: str = ""
) -> list[str]:
    """One key for each whole chunk of `tokens`. `fingerprint`: the model, its weights and KV layout; `strategy_class`:
    what the stored quality may be, None where any will do; `salt`: whatever else the KV depends on, such as an adapter
    or an image. Raises ConfigError for tokens that are not whole numbers from 0 to 2³² - 1."""
    if chunk_tokens < 1:
        raise ConfigError(f"chunk_tokens={chunk_tokens}: must be 1 or more")
    chunks = len(tokens) // chunk_tokens
    try:
        data = struct.pack(f"<{chunks * chunk_tokens}I", *tokens[: chunks * chunk_tokens])
    except struct.error as error:
        raise ConfigError(f"tokens must be whole numbers from 0 to 2³² - 1: {error}") from error
    seed = msgspec.msgpack.encode([_VERSION, fingerprint, strategy_class, salt, chunk_tokens])
    before, size, keys = blake2b(seed, digest_size=32), chunk_tokens * _TOKEN_BYTES, []
    for start in range(0, len(data), size):
        before = blake2b(before.digest() + data[start : start + size], digest_size=32)
        keys.append(before.hexdigest())
    return keys
