"""How long a transfer takes: encode, wire and decode of n chunks as a tandem queue.

| symbol | meaning |
|---|---|
| V | raw bytes of the transfer |
| n | chunks |
| r | ratio of the strategy |
| B | bytes/s of the link, l its one-way latency |
| e, w, d | seconds per chunk to encode, to send, to decode |

T = fixed + l + e + w + d + (n - 1) · max(e, w, d), with e = V/n / encode speed, w = V/n / (r·B), d = V/n / decode speed.
(The KVServe model, arXiv 2605.13734, adds the stages up; overlapping them is what streaming is for.)
"""

from __future__ import annotations

import msgspec

from tightwire.kv.profiles import Profile
from tightwire.net.estimator import LinkEstimate


class Prediction(msgspec.Struct, frozen=True):
    """Seconds, of all chunks together for each stage, and `total_s` with their overlap."""

    encode_s: float
    wire_s: float
    decode_s: float
    total_s: float


def predict(profile: Profile, raw_bytes: int, chunks: int, link: LinkEstimate, fixed_s: float = 0.0) -> Prediction:
    """The model above for one candidate."""
    encode_s = raw_bytes / profile.encode_bytes_per_s
    wire_s = raw_bytes / profile.ratio / link.bytes_per_s
    decode_s = raw_bytes / profile.decode_bytes_per_s
    stages = (encode_s / chunks, wire_s / chunks, decode_s / chunks)
    total_s = fixed_s + link.latency_s + sum(stages) + (chunks - 1) * max(stages)
    return Prediction(encode_s, wire_s, decode_s, total_s)


def break_even_bytes_per_s(profile: Profile, raw: Profile) -> float:
    """The link speed above which raw is faster, for many chunks: where the wire time of raw is the slowest stage of
    `profile`. Infinity for raw itself."""
    if profile.ratio <= 1:
        return 0.0 if profile.strategy != raw.strategy else float("inf")
    return min(profile.encode_bytes_per_s, profile.decode_bytes_per_s)
