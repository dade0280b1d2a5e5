"""How long a transfer takes: compute, encode, wire and decode of n chunks as a tandem queue.

| symbol | meaning |
|---|---|
| n | chunks |
| B, l | bytes/s of the link and its one-way latency |
| c, e, w, d | seconds per chunk to compute, encode, send, decode |
| q | seconds until the link has carried what is before us |

T = fixed + l + max(c + e + w + d + (n − 1) · max(c, e, w, d),  q + w + d + (n − 1) · max(w, d))

c is prefill ÷ n where the transfer streams beside it, else 0: then compute is over before the transfer starts. This is
exact for equal chunks; fixed is learnt (`corrections`). Where the encoder has no core of its own, compute and encode are
one station: c + e takes the place of both under the maximum. KVServe's model (arXiv 2605.13734) adds the stages up
instead.
"""

from __future__ import annotations

from collections.abc import Callable

from tightwire.kv.profiles import Profile


def model(
    n: int, compute_s: float = 0.0, queued_s: float = 0.0, one_core: bool = False
) -> Callable[[float, float, float], float]:
    """T without fixed and l as a function of encode, wire and decode; all as seconds of all n chunks together.
    `one_core`: compute and encode take turns."""
    beside_s = compute_s if one_core else 0.0
    rest = n - 1

    def total_s(encode_s: float, wire_s: float, decode_s: float) -> float:
        last = wire_s if wire_s > decode_s else decode_s  # `max` takes longer than all the rest
        first = encode_s + beside_s
        slowest = first if first > last else last
        if compute_s > slowest:
            slowest = compute_s
        own = compute_s + encode_s + wire_s + decode_s + rest * slowest
        if queued_s:
            own = max(own, n * queued_s + wire_s + decode_s + rest * last)
        return own / n

    return total_s


def break_even_bytes_per_s(profile: Profile, raw: Profile) -> float:
    """The link speed above which raw is faster, for many chunks: where the wire time of raw is the slowest stage of
    `profile`. Infinity for raw itself."""
    if profile.ratio <= 1:
        return 0.0 if profile.strategy != raw.strategy else float("inf")
    return min(profile.encode_bytes_per_s, profile.decode_bytes_per_s)
