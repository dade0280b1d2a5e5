"""A URL names a store.

| URL | store |
|---|---|
| `file:///path` | a folder; `?durable=1` writes through to the disk |
| `redis://[user:password@]host[:port][/database]` | Redis or Valkey; `?ttl_s=3600`; `rediss://` with TLS; `valkey(s)://` likewise |
| `s3://bucket/prefix`, `gs://…`, `az://…` | an object store |
| `memory://` | this process's memory |
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from tightwire.errors import ConfigError
from tightwire.kv.store.backend import Backend
from tightwire.kv.store.directory import Directory
from tightwire.kv.store.memory import Memory
from tightwire.kv.store.objects import Objects
from tightwire.kv.store.redis import Redis
from tightwire.kv.store.store import Store
from tightwire.net.resp import SCHEMES, Address

DEFAULT_MAX_BYTES = 16 * 2**30
DEFAULT_TIMEOUT_S = 2.0
_OBJECTS = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")


def open_store(url: str, *, max_bytes: int | None = None, timeout_s: float = DEFAULT_TIMEOUT_S) -> Store:
    """The store at `url`, as above. `max_bytes` bounds a folder (16 GiB) or memory; other stores have their own bound.
    `timeout_s`: how long a call waits for a store that shows no sign of life. Raises ConfigError for settings that
    cannot be meant; a server that is not there is no error, but a store in which nothing is found."""
    return Store(_backend(url, max_bytes, timeout_s), timeout_s=timeout_s)


def _backend(url: str, max_bytes: int | None, timeout_s: float) -> Backend:
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ConfigError(f"store {url!r}: give the folder's absolute path, like file:///var/cache/tightwire")
        settings = _settings(parts, "durable")
        return Directory(
            Path(unquote(parts.path)),
            DEFAULT_MAX_BYTES if max_bytes is None else max_bytes,
            durable=bool(settings.get("durable", 0)),
        )
    if parts.scheme == "memory":
        return Memory(DEFAULT_MAX_BYTES if max_bytes is None else max_bytes)
    if max_bytes is not None and parts.scheme in (*SCHEMES, *_OBJECTS):
        where = "maxmemory in the server" if parts.scheme in SCHEMES else "a lifecycle rule of the bucket"
        raise ConfigError(f"max_bytes={max_bytes}: store {parts.scheme}:// is bounded by {where}; leave it out")
    if parts.scheme in SCHEMES:
        return _redis(parts, timeout_s)
    if parts.scheme in _OBJECTS:
        return Objects.open(url, timeout_s=timeout_s)
    allowed = ", ".join(("file", "memory", *SCHEMES, *_OBJECTS))
    raise ConfigError(f"store {parts.scheme}://…: the scheme is not one of {allowed}")


def _redis(parts: SplitResult, timeout_s: float) -> Redis:
    settings = _settings(parts, "ttl_s")
    address = Address.of(parts, "store")
    if settings.get("ttl_s") == 0:
        raise ConfigError(f"store {parts.scheme}://{parts.hostname}: ttl_s=0; write it like redis://host:6379/0?ttl_s=3600")
    return Redis(address, timeout_s=timeout_s, ttl_s=settings.get("ttl_s"))


def _settings(parts: SplitResult, *allowed: str) -> dict[str, int]:
    """What follows the question mark: whole numbers by name."""
    found = dict(parse_qsl(parts.query, keep_blank_values=True))
    for key, value in found.items():
        if key not in allowed or not (value.isascii() and value.isdigit()):
            raise ConfigError(
                f"store {parts.scheme}://…?{key}={value}: allowed are whole numbers for {', '.join(allowed)}"
            )
    return {key: int(value) for key, value in found.items()}
