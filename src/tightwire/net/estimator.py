"""The speed of a link, learnt from the transfers themselves; never a constant from a settings file.

Within a segment the speed is bytes ÷ seconds over decayed sums. An observation that is further away than noise explains
begins a new segment at once: a link that changed is known after one transfer. The segment before is kept beside it for
one observation: when that one fits the old speed, the jump was an outlier.

| symbol | meaning |
|---|---|
| x | log(observed speed ÷ the segment's) |
| s | what noise does to x: the segment's own, timing errors and what buffers swallow, added in squares |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import hypot, log, log1p

HALF_LIFE_OBSERVATIONS = 1.0  # after this many transfers an old observation counts half: links change
TIMING_ERROR_S = 1e-3  # two clocks and two schedulers
BUFFERED_BYTES = 32 * 1024  # a token bucket's burst or a socket's buffer passes at any speed
JUMP_DEVIATIONS = 3.0
LEAST_JUMP = 0.1  # of x: what is less is drift, which the decayed sums follow
_FIRST_NOISE = 0.1
_NOISE_WEIGHT = 0.2  # of the newest deviation
_JUMP_WEIGHT = 0.05  # of the newest observation in the share of those that jumped
_MOST_NOISE = 0.5  # a link that jumps all the time must not hide the next jump


@dataclass(frozen=True)
class LinkEstimate:
    """`bytes_per_s` of payload and the one-way `latency_s`; `observations` says how much it rests on. With the chance
    `jump_chance` the link is back at `other_bytes_per_s` by now, where it was before the last jump."""

    bytes_per_s: float
    latency_s: float
    observations: int
    other_bytes_per_s: float = 0.0
    jump_chance: float = 0.0


@dataclass(frozen=True)
class _Segment:
    bytes: float
    seconds: float
    noise: float

    @property
    def bytes_per_s(self) -> float:
        return self.bytes / self.seconds

    def deviation(self, wire_bytes: int, busy_s: float) -> tuple[float, float]:
        """x and s of an observation. Clocks explain what looks too fast only as far as an error of theirs, added to what was
        seen, makes it slower: however short, it is a jump where the speed before would have taken far longer."""
        x = log(wire_bytes / busy_s * self.seconds / self.bytes)
        timing = TIMING_ERROR_S / busy_s
        if x > 0:
            timing = log1p(JUMP_DEVIATIONS * timing) / JUMP_DEVIATIONS
        return x, hypot(self.noise, timing, BUFFERED_BYTES / wire_bytes)

    def fits(self, wire_bytes: int, busy_s: float) -> bool:
        x, s = self.deviation(wire_bytes, busy_s)
        return abs(x) <= max(JUMP_DEVIATIONS * s, LEAST_JUMP)

    def with_(self, wire_bytes: int, busy_s: float) -> _Segment:
        decay = 0.5 ** (1 / HALF_LIFE_OBSERVATIONS)
        x, s = self.deviation(wire_bytes, busy_s)
        known = s * s - self.noise * self.noise  # what explains x without noise of the link
        variance = max(x * x - known, 0.0)
        noise = (self.noise**2 + _NOISE_WEIGHT * (variance - self.noise**2)) ** 0.5
        return _Segment(self.bytes * decay + wire_bytes, self.seconds * decay + busy_s, min(noise, _MOST_NOISE))


class LinkEstimator:
    """Long transfers weigh more than short ones, new ones more than old ones, and none from before a jump."""

    def __init__(self) -> None:
        self._now: _Segment | None = None
        self._before: _Segment | None = None  # the segment that the last observation ended
        self._latency_s = self._other_bytes_per_s = 0.0
        self._jumps = {True: 0.0, False: 0.0}  # share of observations that ended the faster state, the slower one
        self._observations = 0

    def observe(self, wire_bytes: int, busy_s: float) -> None:
        """`wire_bytes` kept the link busy for `busy_s`. Nothing is learnt from nothing."""
        if wire_bytes <= 0 or busy_s <= 0:
            return
        self._observations += 1
        before, self._before = self._before, None
        jumped, fast, was = False, self._fast, self._now
        if was is None:
            self._now = _Segment(wire_bytes, busy_s, _FIRST_NOISE)
        elif was.fits(wire_bytes, busy_s):
            self._now = was.with_(wire_bytes, busy_s)
        else:
            if before is not None and before.fits(wire_bytes, busy_s):
                self._now = before.with_(wire_bytes, busy_s)
            else:
                self._before, self._now = was, _Segment(wire_bytes, busy_s, was.noise)
            self._other_bytes_per_s = was.bytes_per_s
            jumped = fast == (self._now.bytes_per_s < was.bytes_per_s)  # what was fast and is faster now is still fast
        self._jumps[fast] += _JUMP_WEIGHT * (jumped - self._jumps[fast])

    def observe_round_trip(self, seconds: float) -> None:
        """The smallest round trip seen is twice the latency: larger ones waited in a queue."""
        half = seconds / 2
        self._latency_s = half if self._latency_s == 0 else min(self._latency_s, half)

    def distrust(self) -> None:
        """Somebody else saw the link change: the next observation counts alone. The old speed stays until then."""
        if self._now is not None:
            least = 1e-9  # of its weight: any observation outvotes it
            self._now = replace(
                self._now, bytes=self._now.bytes * least, seconds=self._now.seconds * least, noise=_MOST_NOISE
            )
            self._before = None

    def estimate(self) -> LinkEstimate | None:
        """None until something crossed the link."""
        if self._now is None:
            return None
        return LinkEstimate(
            self._now.bytes_per_s, self._latency_s, self._observations, self._other_bytes_per_s, self._jumps[self._fast]
        )

    @property
    def _fast(self) -> bool:
        """Whether the link is faster now than before the last jump."""
        return self._now is not None and self._now.bytes_per_s > self._other_bytes_per_s
