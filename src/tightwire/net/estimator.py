"""The speed of a link, learnt from the transfers themselves; never a constant from a settings file."""

from __future__ import annotations

from dataclasses import dataclass

HALF_LIFE_OBSERVATIONS = 2.0  # after this many transfers an old observation counts half: links change


@dataclass(frozen=True)
class LinkEstimate:
    """`bytes_per_s` of payload and the one-way `latency_s`; `observations` says how much it rests on."""

    bytes_per_s: float
    latency_s: float
    observations: int


class LinkEstimator:
    """Decayed sums of bytes and of the seconds that the link was busy with them: long transfers weigh more."""

    def __init__(self) -> None:
        self._bytes = self._seconds = 0.0
        self._latency_s = 0.0
        self._observations = 0

    def observe(self, wire_bytes: int, busy_s: float) -> None:
        """`wire_bytes` kept the link busy for `busy_s`. Nothing is learnt from nothing."""
        if wire_bytes <= 0 or busy_s <= 0:
            return
        decay = 0.5 ** (1 / HALF_LIFE_OBSERVATIONS)
        # Relative to this observation's size, so that one short transfer cannot outvote a long history by count.
        self._bytes = self._bytes * decay + wire_bytes
        self._seconds = self._seconds * decay + busy_s
        self._observations += 1

    def observe_round_trip(self, seconds: float) -> None:
        """The smallest round trip seen is twice the latency: larger ones waited in a queue."""
        half = seconds / 2
        self._latency_s = half if self._latency_s == 0 else min(self._latency_s, half)

    def estimate(self) -> LinkEstimate | None:
        """None until something crossed the link."""
        if self._observations == 0:
            return None
        return LinkEstimate(self._bytes / self._seconds, self._latency_s, self._observations)
