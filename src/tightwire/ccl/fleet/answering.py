"""The agent's answers to a collector's questions about its own ranks, in threads of their own: a stack takes seconds."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from tightwire.ccl import evidence, throttling, transport
from tightwire.ccl.agent import Agent
from tightwire.ccl.fleet.messages import MAX_ENDS, About, Answer, Ask, Findings, pack_findings

MAX_WAITING, WORKERS = 32, 2


class Answering:
    """Only the processes of the `agent`'s ranks may be asked about; each answer goes to `deliver`."""

    def __init__(self, about: About, agent: Agent) -> None:
        self._about, self._agent = about, agent
        self.deliver: Callable[[Answer], None] = lambda answer: None
        self._waiting: queue.Queue[Ask] = queue.Queue(MAX_WAITING)
        for number in range(WORKERS):
            threading.Thread(target=self._work, name=f"tightwire-answer-{number}", daemon=True).start()

    def take(self, ask: Ask) -> None:
        """More than can wait are not answered."""
        try:
            self._waiting.put_nowait(ask)
        except queue.Full:
            return

    def _work(self) -> None:
        while True:
            ask = self._waiting.get()
            try:
                found = self._look(ask)
            except Exception:  # of /proc, py-spy, netlink: an answer is a help, not a condition
                found = Findings()
            self.deliver(Answer(self._about, ask.number, pack_findings(found)))

    def _look(self, ask: Ask) -> Findings:
        known = self._agent.pids
        if ask.what == "ends":
            mine = {rank: pid for rank, pid in ask.pids.items() if pid in known}
            return Findings(ends=[*transport.ends(mine), *self._agent.transfers(mine)][:MAX_ENDS])
        if ask.what == "groups":
            return Findings(groups=self._agent.described(ask.groups))
        if ask.what == "reaches" and ask.pid in known:
            peers = {end.socket.remote for end in transport.ends({0: ask.pid})}  # nobody else is reached for
            found = transport.reached(ask.pid, peers & set(ask.addresses))
            return Findings(reached=None if found is None else sorted(found))
        if ask.what == "evidence" and ask.pid in known:
            return Findings(evidence=evidence.collect(ask.pid, ask.pid_start))
        if ask.what == "throttling" and ask.pid in known:
            return Findings(throttling=throttling.watch(ask.pid))
        return Findings()
