"""Prefixes to and from a store: the scheduler's half asks what is there, the worker's half loads and saves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from tightwire.kv.block import KVBlock
from tightwire.kv.engines.vllm.counters import Counters
from tightwire.kv.engines.vllm.loads import Loads
from tightwire.kv.engines.vllm.plan import Shelved
from tightwire.kv.engines.vllm.saving import Saving
from tightwire.kv.engines.vllm.settings import Settings
from tightwire.kv.store import Layout, PrefixStore, open_store

logger = logging.getLogger(f"vllm.{__name__}")
_LOADERS, _SAVERS, _ASKERS = 16, 2, 2
_MAX_STAGED_BYTES = 2**30


def open_prefixes(settings: Settings, fingerprint: str, layout: Layout) -> PrefixStore:
    """The prefixes of this model in the store of the settings, of the quality that they ask for."""
    store = open_store(
        settings.store, max_bytes=settings.store_max_bytes or None, timeout_s=min(settings.timeout_s, 2.0)
    )
    return PrefixStore(
        store, fingerprint=fingerprint, layout=layout, chunk_tokens=settings.store_chunk_tokens,
        strategy_class=str(Saving(settings).smallest),
    )  # fmt: skip


class Index:
    """What the store has; asked without waiting."""

    def __init__(self, prefixes: PrefixStore) -> None:
        self._prefixes = prefixes
        self._pool = ThreadPoolExecutor(_ASKERS, "tightwire-lookup")

    def lookup(self, tokens: tuple[int, ...]) -> Future[int]:
        """The number of leading tokens that are there; 0 where the store does not answer."""
        return self._pool.submit(self._ask, tokens)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._prefixes.store.close()

    def _ask(self, tokens: tuple[int, ...]) -> int:
        try:
            return self._prefixes.lookup(tokens)
        except Exception as error:  # a request must not wait for ever
            logger.warning("tightwire: asking the store failed: %s", error)
            return 0


class Shelf:
    """Loads and saves in the background. What waits to be saved is bounded; past it prefixes are not saved."""

    def __init__(self, settings: Settings, prefixes: PrefixStore, loads: Loads, counters: Counters) -> None:
        self._prefixes, self._loads, self._counters = prefixes, loads, counters
        self._saving, self._timeout_s = Saving(settings), settings.timeout_s
        self._lock = threading.Lock()
        self._staged_bytes = 0
        self._loaders = ThreadPoolExecutor(_LOADERS, "tightwire-fetch")
        self._savers = ThreadPoolExecutor(_SAVERS, "tightwire-save")

    def fetch(self, move: Shelved) -> None:
        """Load `move` to its blocks."""
        self._loaders.submit(self._fetch, move)

    def has_room(self, move: Shelved) -> bool:
        """Whether the copy that saving it takes may be made; if so, `save` must follow."""
        size = (move.stop - move.start) * self._prefixes.layout.token_bytes
        with self._lock:
            if self._staged_bytes + size > _MAX_STAGED_BYTES:
                return False
            self._staged_bytes += size
        return True

    def save(self, move: Shelved, block: KVBlock | None) -> None:
        """`block` holds the tokens of `move`; None where the copy failed."""
        self._savers.submit(self._save, move, block)

    def close(self) -> None:
        """What waits is not saved."""
        self._savers.shutdown(wait=True, cancel_futures=True)
        self._loaders.shutdown(wait=False, cancel_futures=True)
        self._prefixes.store.close()

    def _fetch(self, move: Shelved) -> None:
        def source(on_block: Callable[[KVBlock], None]) -> str | None:
            loaded = self._prefixes.load(move.tokens, len(move.tokens), on_block, timeout_s=self._timeout_s)
            self._saving.observe(loaded.wire_bytes, loaded.wire_s)
            self._counters.add(store_read_bytes=loaded.wire_bytes, store_read_seconds=loaded.wire_s)
            return loaded.error

        self._loads.run(move, source)

    def _save(self, move: Shelved, block: KVBlock | None) -> None:
        try:
            if block is None:
                return
            chunks = -(-block.tokens // self._prefixes.chunk_tokens)
            strategy = self._saving.strategy(block.raw_bytes, chunks)
            report = self._prefixes.save(move.tokens, block, strategy)
            self._counters.add(
                tokens_saved=report.tokens, saves_failed=report.refused,
                store_written_bytes=report.wire_bytes,
            )  # fmt: skip
            if not report.ok:
                logger.warning("tightwire: saving a prefix failed: %s", report.error)
        except Exception as error:  # the prefix is not in the store, that is all
            self._counters.add(saves_failed=1)
            logger.warning("tightwire: saving a prefix failed: %s", error)
        finally:
            with self._lock:
                self._staged_bytes -= (move.stop - move.start) * self._prefixes.layout.token_bytes
