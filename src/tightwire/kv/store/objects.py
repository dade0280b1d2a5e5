"""An object store, whichever obstore (https://developmentseed.org/obstore) reaches: S3 and its likes, GCS, Azure.

It evicts nothing by itself: give the bucket a lifecycle rule. Credentials come from where each cloud's own tools look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from tightwire.errors import ConfigError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_SUFFIX = ".twkv"
_LOOKUPS_AT_ONCE = 16


class Objects:
    """Values below the prefix of `store`."""

    parallel = 8

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def open(cls, url: str, *, timeout_s: float) -> Objects:
        """Raises ConfigError without obstore, and for a URL that it does not understand."""
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError as error:
            raise ConfigError(f"store {url!r} needs obstore: pip install 'tightwire[object]'") from error
        limit = timedelta(seconds=timeout_s)
        try:
            store = from_url(
                url,
                client_options={"timeout": limit, "connect_timeout": limit, "allow_http": True},
                retry_config={"max_retries": 2, "retry_timeout": limit},
            )
        except (BaseError, ValueError) as error:
            raise ConfigError(f"store {url!r}: {error}") from error
        return cls(store)

    def get(self, key: str, max_bytes: int) -> memoryview | None:
        import obstore

        try:
            answer = obstore.get(self._store, key + _SUFFIX)
        except FileNotFoundError:
            return None
        if answer.meta["size"] > max_bytes:  # the body is not read yet
            self.remove(key)
            return None
        return memoryview(answer.bytes())

    def put(self, key: str, value: memoryview) -> bool:
        import obstore

        obstore.put(self._store, key + _SUFFIX, value)
        return True

    def contains(self, keys: Sequence[str]) -> int:
        for start in range(0, len(keys), _LOOKUPS_AT_ONCE):
            found = asyncio.run(self._heads(keys[start : start + _LOOKUPS_AT_ONCE]))
            if not all(found):
                return start + found.index(False)
        return len(keys)

    def first(self, keys: Sequence[str]) -> int:
        found = asyncio.run(self._heads(keys))
        return found.index(True) if True in found else len(keys)

    async def _heads(self, keys: Sequence[str]) -> list[bool]:
        import obstore

        async def there(key: str) -> bool:
            try:
                await obstore.head_async(self._store, key + _SUFFIX)
            except FileNotFoundError:
                return False
            return True

        return await asyncio.gather(*map(there, keys))

    def remove(self, key: str) -> None:
        import obstore

        try:
            obstore.delete(self._store, key + _SUFFIX)
        except FileNotFoundError:
            return

    def close(self) -> None:
        return
