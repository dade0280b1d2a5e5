"""A library as the tests want it, and requests over links."""

from tightwire.kv.control.records import Decision, Outcome, Request, Share
from tightwire.kv.profiles import Profile, ProfileLibrary
from tightwire.net.estimator import LinkEstimate

RAW = Profile("raw", 1.0, 5e9, 5e9, 1.0)
FOUR = Profile("hadamard+uniform:levels=16+pack", 3.55, 2e9, 2e9, 0.99, (0.01, 0.02))
TEN = Profile("hadamard+uniform:levels=10+zstd", 4.5, 4e8, 8e8, 0.98, (0.02, 0.03))
ROUGH = Profile("uniform:levels=4+zstd", 9.0, 2e9, 2e9, 0.5)
LIBRARY = ProfileLibrary("m", [RAW, FOUR, TEN, ROUGH], {})
REQUEST = Request(10_000_000, 8, 1024)


def link(bytes_per_s: float) -> LinkEstimate:
    return LinkEstimate(bytes_per_s, 1e-4, 3)


def as_predicted(
    decision: Decision, encode: float = 1.0, decode: float = 1.0, total: float = 1.0, tried: float = 1.0
) -> Outcome:
    """What the profile says about the choice, but slower by these factors; the total follows the slowest stage. What was
    tried on the way is slower by `tried`."""
    candidate = decision.candidate
    assert candidate is not None
    p = candidate.predicted
    e, w, d = p.encode_s * encode, p.wire_s, p.decode_s * decode
    request, trial = decision.request, decision.trial
    n = request.chunks
    total_s = ((e + w + d) + (n - 1) * max(e, w, d)) / n * total
    wire_bytes, shares = round(w * (decision.link_bytes_per_s or 0)), []
    if trial is not None:
        (t,) = (c.predicted for c in decision.candidates if c.strategy == trial.strategy)
        part = trial.pieces / n
        size = round(request.raw_bytes * part)
        shares = [
            Share(decision.chosen, request.raw_bytes - size, round(wire_bytes * (1 - part)), e * (1 - part), d * (1 - part)),
            Share(trial.strategy, size, round(size / 4), t.encode_s * part * tried, t.decode_s * part * tried),
        ]  # fmt: skip
    return Outcome(e, w, d, total_s, wire_bytes, shares=shares)
