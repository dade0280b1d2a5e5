"""Two hosts and a link of known speed on one machine: network namespaces, a veth pair, a token bucket (tc-tbf(8)).

Needs root and Linux; `available()` says so. Everything is removed on exit.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from types import TracebackType
from typing import Any

from tightwire.errors import ConfigError

_SEND, _RECEIVE = "10.201.7.1", "10.201.7.2"
_LEAST_BURST_BYTES = 2**15
_PACKET_BYTES = 2**17  # more than the largest packet that the kernel leaves to a network card to segment
_BURST_S = 4e-3
_QUEUE_S = 0.05


def burst_bytes(bytes_per_s: float) -> int:
    """What the token bucket holds: 4 ms of the link's speed, within bounds. Smaller ones than the largest packet make the kernel
    cut packets to the MTU on the sender's core, which takes 5 ns a byte and which network cards do in hardware."""
    return int(max(_LEAST_BURST_BYTES, min(_BURST_S * bytes_per_s, _PACKET_BYTES)))


def available() -> str | None:
    """None where namespaces can be made, else the reason why not."""
    try:
        import pyroute2  # noqa: F401
    except ImportError:
        return "pyroute2 is not installed"
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with Testbed():
            return None
    except Exception as error:
        return f"network namespaces cannot be made here: {error}"


def enter(namespace: str) -> None:
    """Move this process into `namespace` (for a worker, before it opens any socket)."""
    from pyroute2 import netns

    netns.setns(namespace)


class Testbed:
    """`sender` and `receiver` are namespaces whose addresses reach each other; what the sender sends is shaped."""

    __test__ = False  # not a test class, whatever its name says to pytest

    def __init__(self) -> None:
        tag = uuid.uuid4().hex[:6]
        self.sender, self.receiver = f"tw-{tag}-send", f"tw-{tag}-recv"
        self._names = (f"tw{tag}s", f"tw{tag}r")
        self.sender_address, self.receiver_address = _SEND, _RECEIVE

    def __enter__(self) -> Testbed:
        from pyroute2 import IPRoute, NetNS, netns

        try:
            for namespace in (self.sender, self.receiver):
                netns.create(namespace)
            with IPRoute() as ip:
                ip.link("add", ifname=self._names[0], kind="veth", peer={"ifname": self._names[1]})
                for name, namespace in zip(self._names, (self.sender, self.receiver), strict=True):
                    ip.link("set", index=ip.link_lookup(ifname=name)[0], net_ns_fd=namespace)
            for name, namespace, address in zip(
                self._names, (self.sender, self.receiver), (_SEND, _RECEIVE), strict=True
            ):
                with NetNS(namespace) as ip:
                    index = ip.link_lookup(ifname=name)[0]
                    ip.addr("add", index=index, address=address, prefixlen=24)
                    ip.link("set", index=index, state="up")
                    ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def set_rate(self, bytes_per_s: float | None) -> None:
        """Hold what the sender sends to `bytes_per_s`, or lift the limit; traffic may flow meanwhile."""
        from pyroute2 import NetNS
        from pyroute2.netlink.exceptions import NetlinkError

        if bytes_per_s is not None and bytes_per_s < 1000:
            raise ConfigError(f"rate {bytes_per_s} B/s is below what a token bucket can do; use 1000 or more")
        with NetNS(self.sender) as ip:
            index = ip.link_lookup(ifname=self._names[0])[0]
            with contextlib.suppress(NetlinkError):  # there was no limit yet
                ip.tc("del", index=index, parent=0xFFFFFFFF)
            if bytes_per_s is not None:
                settings: dict[str, Any] = {
                    "rate": int(bytes_per_s),
                    "burst": burst_bytes(bytes_per_s),
                    "latency": f"{_QUEUE_S * 1e3:g}ms",
                }
                ip.tc("add", "tbf", index, 0x10000, **settings)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from pyroute2 import netns

        for namespace in (self.sender, self.receiver):
            with contextlib.suppress(OSError):
                netns.remove(namespace)  # the veth pair goes with its namespace
