"""Hosts for ranks on one machine: a network namespace for each, with one interface each into one switch (a bridge in a
namespace of its own). Needs root and Linux; everything is removed on exit.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections import defaultdict
from pathlib import Path
from types import TracebackType

INTERFACE, MAX_HOSTS = "tw0", 62_500
ANSWER_S = 60  # of pyroute2's helper processes, also on a machine that is busy
_QUEUE_S, _BURST_BYTES = 0.05, 4096
_IPV4, _DROP, _ACCEPT = 2, 0, 1
_ETH_IP, _ROOT, _UNLIMITED_BYTES_PER_S = 0x0800, 0xFFFFFFFF, 4_000_000_000


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
        from pyroute2 import NetNS, config, netns

        config.default_communicate_timeout = ANSWER_S
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


def slow_down(bytes_per_s: float, to_host: int | None = None) -> None:
    """On this process's own host: hold what leaves it (or only what goes to one other host) to that rate, by a token
    bucket (tc-tbf(8))."""
    from pyroute2 import IPRoute

    bucket = {"rate": int(bytes_per_s), "burst": _BURST_BYTES, "latency": f"{_QUEUE_S * 1e3:g}ms"}
    with IPRoute() as ip:
        index = ip.link_lookup(ifname=INTERFACE)[0]
        if to_host is None:
            ip.tc("replace", "tbf", index, 0x10000, **bucket)
            return
        ip.tc("replace", "htb", index, 0x10000, default=0x20)
        ip.tc("add-class", "htb", index, 0x10010, parent=0x10000, rate=int(bytes_per_s), burst=_BURST_BYTES)
        ip.tc("add-class", "htb", index, 0x10020, parent=0x10000, rate=_UNLIMITED_BYTES_PER_S)
        number = int.from_bytes(socket.inet_aton(address(to_host)), "big")
        ip.tc(
            "add-filter",
            "u32",
            index,
            parent=0x10000,
            prio=1,
            protocol=_ETH_IP,
            target=0x10010,
            keys=[f"0x{number:08x}/0xffffffff+16"],
        )


def set_free() -> None:
    """On this process's own host: as it was before `slow_down`."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as ip, contextlib.suppress(NetlinkError):
        ip.tc("del", index=ip.link_lookup(ifname=INTERFACE)[0], parent=_ROOT)


def on_own_host() -> bool:
    """Whether this process is on a host of such a cluster."""
    return f"{INTERFACE}:" in Path("/proc/thread-self/net/dev").read_text()


def sent_bytes() -> int:
    """What left this process's host through its interface so far."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, fields = line.partition(":")
        if name.strip() == INTERFACE:
            return int(fields.split()[8])
    return 0


def busiest_peer() -> int:
    """The host to which this process's own host sent most so far."""
    from tightwire.ccl import inet_diag

    sent: dict[str, int] = defaultdict(int)
    for each in inet_diag.established():
        sent[each.remote.rpartition(":")[0]] += each.acked_bytes or 0
    return max(range(MAX_HOSTS), key=lambda host: sent.get(address(host), -1))
