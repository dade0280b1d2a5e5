"""The keys of `kv_connector_extra_config`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from tightwire.errors import ConfigError
from tightwire.kv.presets import resolve
from tightwire.kv.store.prefix import DEFAULT_CHUNK_TOKENS

ROLES = ("kv_producer", "kv_consumer", "kv_both")
AUTO = "auto"
_ALWAYS = {"timeout_s", "strategy", "library", "quality_budget", "store", "store_max_bytes", "store_chunk_tokens"}
_ALLOWED = {
    "kv_producer": _ALWAYS | {"endpoint", "keys", "peer", "decisions", "nixl"},
    "kv_consumer": _ALWAYS | {"bind", "keys", "authorized", "insecure", "nixl"},
    "kv_both": _ALWAYS,
}


@dataclass(frozen=True)
class Settings:
    """What the user wrote, checked. `role` is vLLM's `kv_role`; docs/vllm.md says what each key means."""

    role: str
    endpoint: str = ""
    bind: str = "tcp://127.0.0.1:*"
    strategy: str = "raw"
    library: str = ""
    quality_budget: float = 0.97
    decisions: str = ""
    keys: str = ""
    peer: str = ""
    authorized: str = ""
    insecure: bool = False
    nixl: bool = False
    store: str = ""
    store_max_bytes: int = 0
    store_chunk_tokens: int = DEFAULT_CHUNK_TOKENS
    timeout_s: float = 30.0

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Those of `endpoint`, which separates several by commas; the first is the default."""
        return tuple(part.strip() for part in self.endpoint.split(",") if part.strip())

    @property
    def pushes(self) -> bool:
        """Whether KV goes to a peer."""
        return self.role == "kv_producer"

    @property
    def pulls(self) -> bool:
        """Whether KV comes from a peer."""
        return self.role == "kv_consumer"

    @classmethod
    def parse(cls, extra: Mapping[str, Any], role: str) -> Settings:
        """Raises ConfigError that names the key, its value and what is allowed."""
        if role not in ROLES:
            raise ConfigError(f"kv_role={role!r} is not supported; use {', '.join(ROLES)}")
        defaults = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
        for key, value in extra.items():
            if key not in _ALLOWED[role]:
                raise _error(f"unknown key {key!r} for {role}; allowed are {', '.join(sorted(_ALLOWED[role]))}")
            _check(key, value, defaults[key])
        settings = cls(role, **extra)
        if settings.pushes and not settings.endpoints:
            raise _error("endpoint is missing; give the decode side's tcp://host:port")
        if role == "kv_both" and not settings.store:
            raise _error("store is missing; give a folder as file:///path or a server as redis://host:port/0")
        if settings.strategy == AUTO and not settings.library:
            raise _error('strategy="auto" needs library; write one with tightwire kv profile')
        if settings.strategy != AUTO:
            resolve(settings.strategy)
        return settings


def _check(key: str, value: Any, default: Any) -> None:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise _error(f"{key}={value!r} must be true or false")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise _error(f"{key}={value!r} must be a text")
    elif isinstance(default, int):
        if type(value) is not int or value < 1:
            raise _error(f"{key}={value!r} must be a whole number above zero")
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise _error(f"{key}={value!r} must be a number above zero")


def _error(text: str) -> ConfigError:
    return ConfigError(f"kv_connector_extra_config: {text}")
