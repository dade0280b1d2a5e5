"""From a URL to an agent's connection."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from tightwire.ccl.fleet.answering import Answering
from tightwire.ccl.fleet.backlog import Backlog
from tightwire.ccl.fleet.messages import About
from tightwire.ccl.fleet.station import Connect, Uplink
from tightwire.ccl.fleet.uplink_zmq import ZmqUplink
from tightwire.core.clock import Clock
from tightwire.errors import ConfigError
from tightwire.net.keys import Keys


def connector(url: str, keys: Keys | None, clock: Clock, say: Callable[[str], None]) -> Connect:
    """Raises ConfigError for what is no address of a collector."""
    parts = urlsplit(url)
    if parts.scheme not in ("tcp", "ipc"):
        raise ConfigError(f"collector={url!r}: write it like tcp://host:7711")

    def connect(about: About, backlog: Backlog, answering: Answering) -> Uplink:
        return ZmqUplink(url, keys, about, backlog, answering, clock, say)

    return connect
