"""From a URL to an agent's connection."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from tightwire.ccl.fleet.station import Connect
from tightwire.ccl.fleet.streams import Streams, address, is_redis
from tightwire.ccl.fleet.uplink_redis import RedisUplink
from tightwire.ccl.fleet.uplink_zmq import ZmqUplink
from tightwire.core.clock import Clock
from tightwire.errors import ConfigError
from tightwire.net.keys import Keys


def connector(url: str, keys: Keys | None, clock: Clock, say: Callable[[str], None]) -> Connect:
    """Raises ConfigError for what is no address of a collector."""
    if is_redis(url):
        if keys is not None:
            raise ConfigError("keys are for a collector at tcp://; through Redis, rediss:// encrypts")
        server = address(url)
        return lambda about, backlog, answering: RedisUplink(Streams(server), about, backlog, answering, clock, say)
    if urlsplit(url).scheme not in ("tcp", "ipc"):
        raise ConfigError(f"collector={url!r}: write it like tcp://host:7711, or redis://host:6379/0")
    return lambda about, backlog, answering: ZmqUplink(url, keys, about, backlog, answering, clock, say)
