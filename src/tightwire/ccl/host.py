"""Where a watcher gets what it judges from: this host's agent, its transport, and evidence about its processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tightwire.ccl import connections, evidence, throttling, transport
from tightwire.ccl.agent import Agent
from tightwire.ccl.connections import Connections
from tightwire.ccl.digest import Digest
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.packing import Packer
from tightwire.ccl.throttling import Throttling


class Source(Protocol):
    """One host, or many. `connections` of the ranks with these processes; the others about one process, which its number
    and its start name on any host: which of these addresses answer it (None: not known), and so on."""

    def look(self) -> list[Digest]: ...

    def wait(self, timeout_s: float) -> None: ...

    def connections(self, pids: Mapping[int, int]) -> Connections: ...

    def reached(self, pid: int, pid_start: int, addresses: list[str]) -> set[str] | None: ...

    def evidence(self, pid: int, pid_start: int) -> Evidence | None: ...

    def throttling(self, pid: int, pid_start: int) -> Throttling | None: ...


class ThisHost:
    """All ranks are here. `close` it after use; the agent is the caller's."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._packer = Packer(alone=True)
        self._transport = transport.Transport()

    def look(self) -> list[Digest]:
        return [self._packer.digest(self._agent.look())]

    def wait(self, timeout_s: float) -> None:
        self._agent.wait(timeout_s)

    def connections(self, pids: Mapping[int, int]) -> Connections:
        return connections.columns(transport.joined([*self._transport.ends(pids), *self._agent.transfers(pids)]))

    def reached(self, pid: int, pid_start: int, addresses: list[str]) -> set[str] | None:
        return transport.reached(pid, addresses)

    def evidence(self, pid: int, pid_start: int) -> Evidence | None:
        return evidence.collect(pid, pid_start)

    def throttling(self, pid: int, pid_start: int) -> Throttling | None:
        return throttling.watch(pid)

    def close(self) -> None:
        self._transport.close()
