"""Prompts' KV from the prefill side, written as it arrives."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from tightwire.kv.engines.vllm.loads import Loads
from tightwire.kv.engines.vllm.plan import Move
from tightwire.kv.transfer.receiver import Receiver

_MAX_WAITING = 256  # threads that wait for a transfer; vLLM's --max-num-seqs and its memory bound them further


class Puller:
    """Every load waits in a thread of its own for its transfer, `timeout_s` at most."""

    def __init__(self, receiver: Receiver, loads: Loads, timeout_s: float) -> None:
        self._receiver, self._loads, self._timeout_s = receiver, loads, timeout_s
        self._lock = threading.Lock()
        self._transfers: dict[str, str] = {}  # request: transfer
        self._cancelled: set[str] = set()
        self._pool = ThreadPoolExecutor(_MAX_WAITING, "tightwire-pull")

    def pull(self, move: Move) -> None:
        with self._lock:
            self._transfers[move.request_id] = move.transfer_id
        self._pool.submit(self._run, move)

    def cancel(self, request_id: str) -> None:
        with self._lock:
            if request_id in self._transfers:
                self._cancelled.add(request_id)
        self.tick()

    def tick(self) -> None:
        """With every step: a thread that had not begun to wait when its load was cancelled learns it now."""
        with self._lock:
            cancelled = [self._transfers[name] for name in self._cancelled]
        for transfer in cancelled:
            self._receiver.cancel(transfer)

    def close(self) -> None:
        with self._lock:
            waiting = list(self._transfers)
        for name in waiting:
            self.cancel(name)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._receiver.close()

    def _run(self, move: Move) -> None:
        try:
            self._loads.run(
                move, lambda on_block: self._receiver.wait(move.transfer_id, self._timeout_s, on_block).error
            )
        finally:
            with self._lock:
                self._transfers.pop(move.request_id, None)
                self._cancelled.discard(move.request_id)
