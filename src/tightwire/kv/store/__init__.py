"""Stores for prefixes: KV that was computed once is found again by what it depends on.

A `Store` is a map from keys to frames that answers in time or not at all (`store`), over a folder, Redis, an object
store or memory (`directory`, `redis`, `objects`, `memory`, each a `backend`). A `PrefixStore` cuts a prefix into chunks,
one frame each, under keys that hash everything before (`keys`).
"""

from tightwire.kv.store.keys import prefix_keys
from tightwire.kv.store.load import Loaded
from tightwire.kv.store.prefix import Layout, PrefixStore, SaveReport
from tightwire.kv.store.store import Store
from tightwire.kv.store.url import open_store

__all__ = ["Layout", "Loaded", "PrefixStore", "SaveReport", "Store", "open_store", "prefix_keys"]
