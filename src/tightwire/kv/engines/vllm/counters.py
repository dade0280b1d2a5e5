"""What the worker's half counts: totals since the start, and what is new since vLLM last asked."""

from __future__ import annotations

import threading

COUNTS = {
    "tokens_sent": "Prompt tokens whose KV was pushed to a peer",
    "tokens_loaded": "Prompt tokens whose KV was loaded instead of computed",
    "tokens_saved": "Prompt tokens whose KV was written to the store",
    "sends": "Transfers that the peer has reported as complete",
    "sends_failed": "Transfers that failed or were given up; the decode side recomputes",
    "loads": "Loads that completed",
    "loads_failed": "Loads that failed at least in part; what is missing is recomputed",
    "saves_failed": "Chunks of prefixes that the store did not take",
    "store_read_bytes": "Bytes read from the store",
    "store_read_seconds": "Time in which reads from the store were underway",
    "store_written_bytes": "Bytes written to the store",
    "raw_bytes": "Bytes of KV as the engine holds them, of complete transfers",
    "wire_bytes": "Bytes of KV on the wire, of complete transfers",
    "encode_seconds": "Time spent encoding",
    "wire_seconds": "Time that the link was busy",
    "decode_seconds": "Time that the peer spent decoding",
    "transfer_seconds": "Time from a transfer's first piece to the peer's report",
    "load_seconds": "Time that requests waited for their loads",
    "copy_seconds": "Time that the engine's thread waited for copies out of its blocks",
}


class Counters:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[str, float] = dict.fromkeys(COUNTS, 0)
        self._new: dict[str, float] = {}
        self.last_strategy = ""

    def add(self, **amounts: float) -> None:
        assert amounts.keys() <= COUNTS.keys(), amounts
        with self._lock:
            for name, amount in amounts.items():
                self._totals[name] += amount
                self._new[name] = self._new.get(name, 0) + amount

    def take(self) -> dict[str, float]:
        """What was added since the last call."""
        with self._lock:
            taken, self._new = self._new, {}
        return taken

    def totals(self) -> dict[str, float]:
        with self._lock:
            return dict(self._totals)
