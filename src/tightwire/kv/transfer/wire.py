"""What is underway on one connection: when it arrived, how long the link was busy with it, how much may be there.

Little is kept underway, so that another transfer's frame or a cancellation does not wait behind it, but enough that
the link never idles. The bound follows the queueing delay that the receiver's arrival times show (as LEDBAT does,
RFC 6817): below the target it grows by what arrived, above it shrinks. Two frames are always allowed.
"""

from __future__ import annotations

from collections import OrderedDict

TARGET_DELAY_S = 0.02
_START_BYTES = 2**18
_ALWAYS_FRAMES = 2
Key = tuple[int, int]  # stream, index


class Wire:
    """Times are the sender's clock's. `latency_s` is the one-way latency; it is set when it is known."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.latency_s = 0.0
        self.clear()

    def clear(self) -> None:
        """A new connection: nothing is underway."""
        self._underway: OrderedDict[Key, tuple[int, float]] = OrderedDict()  # bytes, when sent
        self._underway_bytes = 0
        self._window_bytes = float(min(_START_BYTES, self._max_bytes))
        self._last_arrival_s = self._last_cut_s = float("-inf")

    def has_room(self, size_bytes: int) -> bool:
        return len(self._underway) < _ALWAYS_FRAMES or self._underway_bytes + size_bytes <= self._window_bytes

    def sent(self, key: Key, size_bytes: int, now_s: float) -> None:
        self._underway[key] = (size_bytes, now_s)
        self._underway_bytes += size_bytes

    def arrived(self, key: Key, at_s: float) -> float | None:
        """Seconds that the link was busy with this frame; None when it was not underway. A frame starts when it is
        handed over or when its forerunner has arrived, whichever is later, so that waiting for the encoder does not
        make the link look slow."""
        found = self._underway.pop(key, None)
        if found is None:
            return None
        size_bytes, sent_s = found
        self._underway_bytes -= size_bytes
        busy_s = max(at_s - max(sent_s + self.latency_s, self._last_arrival_s), 1e-6)
        self._last_arrival_s = max(self._last_arrival_s, at_s)
        delay_s = at_s - sent_s - self.latency_s - busy_s  # how long it waited for its forerunners
        if delay_s <= TARGET_DELAY_S:
            self._window_bytes = min(self._window_bytes + size_bytes, self._max_bytes)
        elif sent_s > self._last_cut_s:  # once for what was underway together
            self._window_bytes = max(self._window_bytes * max(TARGET_DELAY_S / delay_s, 0.5), _START_BYTES / 16)
            self._last_cut_s = at_s
        return busy_s
