"""Sender and receiver as the settings want them, and the watch over the links."""

from __future__ import annotations

from pathlib import Path

from tightwire.core.links import WATCHES, LinkWatch
from tightwire.core.trace import Trace
from tightwire.errors import ConfigError
from tightwire.kv.engines.vllm.settings import Settings
from tightwire.kv.transfer.receiver import Receiver
from tightwire.kv.transfer.sender import Sender
from tightwire.net.keys import Keys, load_authorized


def watch() -> LinkWatch | None:
    """Whoever judges links in this process; None where nobody does."""
    return next((WATCHES[name]() for name in WATCHES.names()), None)


def sender(settings: Settings, endpoint: str, fingerprint: str, trace: Trace | None = None) -> Sender:
    """To a decode side's `endpoint`; `trace` hears its transfers. Raises ConfigError for keys that cannot be used."""
    keys = None
    if settings.keys or settings.peer:
        if not (settings.keys and settings.peer):
            raise ConfigError(
                "kv_connector_extra_config: keys and peer belong together: a folder, and decode's public key"
            )
        keys = Keys.load(Path(settings.keys), settings.peer)
    return Sender(endpoint, fingerprint=fingerprint, keys=keys, trace=trace, nixl=settings.nixl)


def receiver(settings: Settings, fingerprint: str) -> Receiver:
    """At the address to listen at. Raises ConfigError for keys that cannot be used, and for an address that others
    reach without keys."""
    if bool(settings.keys) != bool(settings.authorized):
        raise ConfigError(
            "kv_connector_extra_config: keys and authorized belong together: a folder, and a file of public keys"
        )
    if not settings.keys:
        return Receiver(settings.bind, fingerprint=fingerprint, insecure=settings.insecure, nixl=settings.nixl)
    return Receiver(
        settings.bind, fingerprint=fingerprint, keys=Keys.load(Path(settings.keys)),
        authorized=load_authorized(Path(settings.authorized)), nixl=settings.nixl,
    )  # fmt: skip
