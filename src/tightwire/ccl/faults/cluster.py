"""Hosts for ranks on one machine: a network namespace for each, with one interface each into one switch (a bridge in a
namespace of its own). Needs root and Linux; everything is removed on exit.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from types import TracebackType

INTERFACE = "tw0"
_IPV4, _DROP, _ACCEPT = 2, 0, 1


def address(host: int) -> str:
    """Of the host with that number, on its one interface."""
    return f"10.202.{host // 250}.{host % 250 + 1}"


class Cluster:
    """`hosts` namespaces, numbered from 0."""

    def __init__(self, hosts: int) -> None:
        tag = uuid.uuid4().hex[:6]
        self.switch = f"tw-{tag}-switch"
        self.hosts = [f"tw-{tag}-{host}" for host in range(hosts)]

    def __enter__(self) -> Cluster:
        from pyroute2 import NetNS, netns

        try:
            for namespace in (self.switch, *self.hosts):
                netns.create(namespace)
            with NetNS(self.switch) as ip:
                ip.link("add", ifname="switch", kind="bridge")
                bridge = ip.link_lookup(ifname="switch")[0]
                ip.link("set", index=bridge, state="up")
                for host, namespace in enumerate(self.hosts):
                    peer = {"ifname": INTERFACE, "net_ns_fd": namespace}
                    ip.link("add", ifname=f"port{host}", kind="veth", peer=peer)
                    ip.link("set", index=ip.link_lookup(ifname=f"port{host}")[0], master=bridge, state="up")
            for host, namespace in enumerate(self.hosts):
                with NetNS(namespace) as ip:
                    index = ip.link_lookup(ifname=INTERFACE)[0]
                    ip.addr("add", index=index, address=address(host), prefixlen=16)
                    ip.link("set", index=index, state="up")
                    ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def enter(self, host: int) -> None:
        """Move this process onto `host`, before it opens any socket."""
        from pyroute2 import netns

        netns.setns(self.hosts[host])
        os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from pyroute2 import netns

        for namespace in (*self.hosts, self.switch):
            with contextlib.suppress(OSError):
                netns.remove(namespace)  # the interfaces go with it


def drop_packets_from(hosts: list[int]) -> None:
    """On this process's own host, by a netfilter rule: what comes from `hosts`, data and acknowledgements, is lost
    without a word."""
    from pyroute2.nftables.expressions import ipv4addr, verdict
    from pyroute2.nftables.main import NFTables

    with NFTables(nfgen_family=_IPV4) as rules:
        rules.table("add", name="tightwire")
        rules.chain("add", table="tightwire", name="lost", hook="input", type="filter", policy=_ACCEPT)
        for host in hosts:
            rules.rule(
                "add", table="tightwire", chain="lost", expressions=(ipv4addr(src=address(host)), verdict(code=_DROP))
            )
