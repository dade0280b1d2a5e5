"""From a URL to where agents' messages come in."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from tightwire.ccl.fleet.lobby import Lobby
from tightwire.ccl.fleet.lobby_zmq import ZmqLobby
from tightwire.core.clock import Clock
from tightwire.errors import ConfigError
from tightwire.net.keys import Keys


def open_lobby(url: str, clock: Clock, keys: Keys | None, authorized: Iterable[bytes], insecure: bool) -> Lobby:
    """Raises ConfigError for what is no address to listen at."""
    if urlsplit(url).scheme not in ("tcp", "ipc"):
        raise ConfigError(f"listen={url!r}: write it like tcp://127.0.0.1:7711")
    return ZmqLobby(url, clock, keys=keys, authorized=authorized, insecure=insecure)
