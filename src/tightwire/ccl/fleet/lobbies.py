"""From a URL to where agents' messages come in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from tightwire.ccl.fleet.lobby import Lobby
from tightwire.ccl.fleet.lobby_redis import RedisLobby
from tightwire.ccl.fleet.lobby_zmq import ZmqLobby
from tightwire.ccl.fleet.streams import Streams, address, is_redis
from tightwire.core.clock import Clock
from tightwire.errors import ConfigError
from tightwire.net.keys import Keys


def open_lobby(
    url: str, clock: Clock, keys: Keys | None, authorized: Iterable[bytes], insecure: bool, say: Callable[[str], None]
) -> Lobby:
    """Raises ConfigError for what is no address to listen at, or no Redis."""
    if is_redis(url):
        if keys is not None:
            raise ConfigError("keys are for tcp://; through Redis, rediss:// encrypts")
        return RedisLobby(Streams(address(url)), clock, say)
    if urlsplit(url).scheme not in ("tcp", "ipc"):
        raise ConfigError(f"listen={url!r}: write it like tcp://127.0.0.1:7711, or redis://host:6379/0")
    return ZmqLobby(url, clock, keys=keys, authorized=authorized, insecure=insecure)
