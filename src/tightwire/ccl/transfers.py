"""K, a slow or stuck KV transfer: the links on which this process sends KV, judged like those of a collective.

| said | when |
|---|---|
| hung | a transfer is open, nothing has moved for `STUCK_S`, and at two looks its connection stands (H3's rule, `analyzer.stopped`) or there is none |
| slow | what is sent goes at a fraction of its earlier speed (S2's rule, `analyzer.slow.links`), or without one, of the other links' |
| healthy | what was said is over |

The events of the transfers say whether something should move, the kernel's counters of the connections whether it can: a
prefill that takes its time and a receiver that does not read are no fault of the link.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np

from tightwire.ccl import inet_diag, transport
from tightwire.ccl.analyzer.slow import links
from tightwire.ccl.analyzer.slow.links import Flow, Flows
from tightwire.ccl.analyzer.stopped import BETWEEN_S, STUCK_S, stand
from tightwire.ccl.connections import Connections, columns
from tightwire.ccl.inet_diag import Socket
from tightwire.ccl.transport import Connection
from tightwire.core.clock import Clock, MonotonicClock
from tightwire.core.events import Kind
from tightwire.core.links import WATCHES, LinkListener, LinkVerdict
from tightwire.core.units import format_rate

logger = logging.getLogger(__name__)
EVERY_S = 0.5
LEAST_BUSY_S = 0.25  # of sending, to tell a speed
_LOOKS = 5  # are compared with those before
_SELF = 0  # this process as a rank; the peers count from 1


class Link:
    """One of them: a `Trace` for its sender. `state` is what was said last."""

    def __init__(self, endpoint: str, number: int, clock: Clock, wake: Callable[[], None]) -> None:
        self.endpoint, self.number = endpoint, number
        self.listener: LinkListener | None = None
        self.state = "healthy"
        self.open: set[int] = set()
        self.moved_s = clock.now_s()
        self.first: tuple[float, Connections] | None = None  # the first look since nothing moves
        self._clock, self._wake = clock, wake
        self._remotes: frozenset[str] = frozenset()

    def add(self, kind: Kind, group: int, seq: int, operation: int, size_bytes: int) -> None:
        """A step of a transfer; quick, as `Trace` wants it."""
        if kind in (Kind.PROGRESS, Kind.DONE) or not self.open:
            self.moved_s = self._clock.now_s()
        if kind in (Kind.DONE, Kind.FAILED):
            self.open.discard(group)
        else:
            self.open.add(group)
            self._wake()

    def leads_to(self, remote: str) -> bool:
        """Whether `remote`, address and port, is its other end."""
        if not self._remotes:
            parts = urlsplit(self.endpoint)
            with contextlib.suppress(OSError, ValueError):
                found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
                self._remotes = frozenset(
                    inet_diag.address(family, socket.inet_pton(family, str(at[0])), int(at[1]))
                    for family, _, _, _, at in found
                )
        return remote in self._remotes

    def say(self, verdict: LinkVerdict) -> None:
        self.state = verdict.state
        logger.warning("tightwire: the link to %s is %s: %s", self.endpoint, verdict.state, verdict.reason)
        if self.listener is not None:
            self.listener.link_verdict(verdict)


@WATCHES.register("ccl")
class TransferWatch:
    """Looks every `every_s` while a transfer is open or a link is not healthy; None: only when `step` is called. `look`:
    this process's connections."""

    def __init__(
        self,
        every_s: float | None = EVERY_S,
        look: Callable[[], Iterable[Socket]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._look, self._clock = look or _mine, clock or MonotonicClock()
        self._links: list[Link] = []
        self._looks: deque[np.ndarray[tuple[int], np.dtype[np.void]]] = deque(maxlen=_LOOKS)
        # By link, how it was when nothing was wrong: the first has no look in common with the current one.
        self._past: defaultdict[int, deque[Flows]] = defaultdict(lambda: deque(maxlen=_LOOKS))
        self._wanted, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        if every_s is not None:
            self._thread = threading.Thread(target=self._run, args=(every_s,), name="tightwire-watch", daemon=True)
            self._thread.start()

    def link(self, endpoint: str) -> Link:
        link = Link(endpoint, len(self._links) + 1, self._clock, self._wanted.set)
        self._links.append(link)
        return link

    def close(self) -> None:
        self._closed.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(5)

    def step(self) -> bool:
        """One look and what follows from it; False where there was nothing to look at."""
        watched = [link for link in self._links if link.open or link.state != "healthy"]
        if not watched:
            return False
        found = [
            Connection(_SELF, link.number, each)
            for each in self._look()
            for link in watched
            if link.leads_to(each.remote)
        ]
        connections, now_s = columns(found), self._clock.now_s()
        for link in watched:
            self._judge_hung(link, connections[connections["peer"] == link.number], now_s)
        self._looks.append(links.look(connections))
        flows = links.flows(list(self._looks))
        # The kernel's own rate is that of its last burst, for as long as nothing else is sent.
        flows = replace(flows, delivery_bytes_per_s=np.zeros(len(flows)))
        for link in watched:
            if link.state != "hung":
                self._judge_slow(link, flows)
        return True

    def _judge_hung(self, link: Link, rows: Connections, now_s: float) -> None:
        if link.state == "hung":
            stands = (rows["queued_bytes"] > 0) & rows["resending"]
            if len(rows) and not stands.any():
                self._looks.clear()  # while it was hung it carried nothing, which is not its speed
                link.say(LinkVerdict(link.endpoint, "healthy", "bytes get through again"))
            return
        if not link.open or now_s - link.moved_s < STUCK_S:
            link.first = None
        elif link.first is None:
            link.first = now_s, rows
        elif now_s - link.first[0] >= BETWEEN_S:
            standing = stand(link.first[1], rows)
            if len(standing):
                queued = int(standing["queued_bytes"].sum())
                why = f"{queued} bytes are queued, none was acknowledged for {now_s - link.moved_s:.1f} s, the kernel sends them again"
                link.say(LinkVerdict(link.endpoint, "hung", why))
            elif not len(rows):
                why = f"there is no connection, and nothing has moved for {now_s - link.moved_s:.1f} s"
                link.say(LinkVerdict(link.endpoint, "hung", why))

    def _judge_slow(self, link: Link, flows: Flows) -> None:
        pair = (_SELF, link.number)
        flow, past = flows.get(pair), self._past[link.number]
        usual = past[0] if past else None
        if flow is None or flow.sent_bytes < links.LEAST_BYTES or flow.busy_s < LEAST_BUSY_S:
            return
        own = flows.only(flows.peer == link.number)
        nothing = flows.only(flows.peer < 0)
        found = links.find(usual, own) if usual is not None else links.find(nothing, flows)
        if found is not None and pair in found.flows:
            if link.state == "healthy":
                link.say(LinkVerdict(link.endpoint, "slow", _compared(flow, usual, pair), flow.speed_bytes_per_s))
        else:
            if link.state == "slow":
                reason = f"it carries {format_rate(flow.speed_bytes_per_s)} again"
                link.say(LinkVerdict(link.endpoint, "healthy", reason))
            past.append(own)

    def _run(self, every_s: float) -> None:
        while True:
            self._wanted.wait()
            if self._closed.wait(every_s):
                return
            self._wanted.clear()
            try:
                if self.step():
                    self._wanted.set()
            except Exception:  # who watches never ends who sends
                logger.exception("tightwire: looking at the links failed")


def _mine() -> list[Socket]:
    return [end.socket for end in transport.ends({_SELF: os.getpid()})]


def _compared(flow: Flow, usual: Flows | None, pair: tuple[int, int]) -> str:
    before = usual.get(pair) if usual is not None else None
    than = (
        "a fraction of what the other links carry"
        if before is None
        else f"{format_rate(before.speed_bytes_per_s)} before"
    )
    return f"it carries {format_rate(flow.speed_bytes_per_s)}; {than}; not because the receiver does not read"
