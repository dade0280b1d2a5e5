"""Many hosts as one source of what a watcher judges.

The watcher's time is the horizon: the moment up to which all hosts are known. A report that is late, a collector that was
away, a host that cannot be reached for a while delay what is said, and change nothing else. A host that stays away is
lost: the horizon goes on without it, and what its ranks do is unknown.

After a start nothing is released until the hosts have gathered and delivered what they kept; then it is judged as it
happened, slice by slice.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from tightwire.ccl.connections import Connections, columns
from tightwire.ccl.digest import FRAME, MAX_RANKS, RANK, Digest
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.fleet.host import Host
from tightwire.ccl.fleet.messages import (
    Answer,
    Ask,
    Bye,
    Findings,
    Hello,
    Report,
    Taken,
    ToCollector,
    Welcome,
    unpack,
    unpack_findings,
)
from tightwire.ccl.fleet.roster import Roster
from tightwire.ccl.summary import GroupFacts
from tightwire.ccl.throttling import Throttling
from tightwire.ccl.transport import joined
from tightwire.core.clock import Clock

LOST_S = 5.0  # without a word
GATHER_S, GATHER_MOST_S = 2.5, 20.0  # after the first host was heard
SLICE_S = 0.25
REPLAY_S, REPLAY_BYTES = 300.0, 16 * 2**20
MAX_HOSTS = MAX_RANKS  # each has a rank at least
EVIDENCE_S, CONNECTIONS_S, GROUPS_S = 7.0, 2.0, 2.0  # to wait for an answer
PRESENT_S = 1.5  # behind the present by more: what is asked now says nothing about then


class Hosts:
    """The hosts of one job. A thread of the connection calls `take`; the thread that judges calls all else: `advance`,
    then `look`, on the clock `horizon`."""

    def __init__(self, clock: Clock, ask: Callable[[Ask], None]) -> None:
        self._clock, self._ask = clock, ask
        self._lock = threading.Condition()
        self._hosts: dict[str, Host] = {}
        self._first_s: float | None = None
        self._gathered = False
        self.horizon = Horizon(0.0)
        self.begun = False  # something was released: the horizon means something
        self._ready: list[Digest] = []
        self._groups: dict[int, GroupFacts] = {}
        self._describe = True  # all groups, with the next digest
        self.more = False  # there is another slice already
        self._numbers = itertools.count(1)
        self._answers: dict[int, Findings | None] = {}
        self._seen: dict[tuple[int, int], Evidence | None] = {}
        self.unknown: dict[int, str] = {}
        self.roster = Roster()

    def take(self, message: ToCollector, arrived_s: float) -> Welcome | Taken | None:
        """What to answer. Raises LinkError for a report or an answer that is none."""
        digest = unpack(message.body) if isinstance(message, Report) else None
        found = unpack_findings(message.body) if isinstance(message, Answer) else None
        with self._lock:
            host = self._host(message.about.host)
            if host is None:
                return None
            self._first_s = arrived_s if self._first_s is None else self._first_s
            host.heard(message.about.run, arrived_s)
            match message:
                case Hello():
                    host.delay.take(message.sent_s, arrived_s)
                    return Welcome(host.next, REPLAY_S, REPLAY_BYTES)
                case Report():
                    assert digest is not None, "unpacked above"
                    host.delay.take(message.sent_s, arrived_s)
                    if host.take(message, digest):
                        self._note_groups(digest.groups)
                    return None if host.next is None else Taken(host.next)
                case Answer() if message.number in self._answers:
                    self._answers[message.number] = found
                    self._lock.notify_all()
                case Bye():
                    host.bye()
            return None

    def advance(self) -> bool:
        """Make the next slice ready for `look`. True when the job was started anew: what was known does not count any
        more."""
        self.more = False
        with self._lock:
            now_s = self._clock.now_s()
            there = [host for host in self._hosts.values() if not host.lost(now_s, LOST_S)]
            if not self._may_go_on(there, now_s):
                return False
            present = [host for host in there if host.caught_up]
            lost = self._hosts.keys() - {host.name for host in present}
            self._ready = [last for name in sorted(lost) if (last := self._lose(self._hosts[name], now_s)) is not None]
            newest = [host.newest_s for host in present if host.newest_s is not None]
            if not newest:
                return False
            until_s = self._until(present, min(newest))
            self.more = until_s < min(newest)
            self.horizon.at_s = max(self.horizon.at_s, until_s) if self.begun else until_s
            self.begun = True
            released = [(digest, host.offset_s) for host in present for digest in host.release(until_s)]
        released.sort(key=lambda each: each[0].at_s)
        return self._keep(released)

    def describe_again(self) -> None:
        """All groups that are known, with what is released next: who judged so far has forgotten them."""
        self._describe = True

    @property
    def behind_s(self) -> float:
        """How far the horizon is behind the present."""
        return self._clock.now_s() - self.horizon.at_s

    def told(self) -> list[tuple[str, float | None, int]]:
        """Each host: its name, for how many seconds it has been lost (None: it is here), how many reports went missing."""
        with self._lock:
            now_s = self._clock.now_s()
            return [
                (host.name, now_s - host.heard_s if host.lost(now_s, LOST_S) else None, host.missed)
                for host in self._hosts.values()
            ]

    def look(self) -> list[Digest]:
        ready, self._ready = self._ready, []
        return ready

    def wait(self, timeout_s: float) -> None:
        self._clock.sleep_s(timeout_s)

    def connections(self, pids: Mapping[int, int]) -> Connections:
        if self.behind_s > PRESENT_S:
            return columns([])
        by_host: dict[str, dict[int, int]] = {}
        for rank, pid in pids.items():
            if rank in self.roster.places and rank not in self.unknown:
                by_host.setdefault(self.roster.places[rank].host, {})[rank] = pid
        asks = [Ask(next(self._numbers), host, "ends", pids=mine) for host, mine in by_host.items()]
        return columns(joined(end for answer in self._answers_to(asks, CONNECTIONS_S) for end in answer.ends))

    def reached(self, pid: int, pid_start: int, addresses: list[str]) -> set[str] | None:
        if self.behind_s > PRESENT_S:
            return None
        answers = self._about_process("reaches", pid, pid_start, addresses)
        return set(answers[0].reached) if answers and answers[0].reached is not None else None

    def evidence(self, pid: int, pid_start: int) -> Evidence | None:
        """As the process is now. While the past is judged it is asked for once only."""
        if self.behind_s <= PRESENT_S:
            self._seen.clear()
        if (pid, pid_start) not in self._seen:
            answers = self._about_process("evidence", pid, pid_start)
            self._seen[pid, pid_start] = answers[0].evidence if answers else None
        return self._seen[pid, pid_start]

    def throttling(self, pid: int, pid_start: int) -> Throttling | None:
        answers = self._about_process("throttling", pid, pid_start)
        return answers[0].throttling if answers else None

    def _host(self, name: str) -> Host | None:
        if name not in self._hosts:
            if len(self._hosts) >= MAX_HOSTS:
                now_s = self._clock.now_s()
                self._hosts = {each.name: each for each in self._hosts.values() if not each.lost(now_s, LOST_S)}
            if len(self._hosts) < MAX_HOSTS:
                self._hosts[name] = Host(name)
        return self._hosts.get(name)

    def _may_go_on(self, there: list[Host], now_s: float) -> bool:
        """The hosts have gathered, and have delivered what they kept, or took too long."""
        if not self._gathered and self._first_s is not None:
            waited_s = now_s - self._first_s
            whole = waited_s >= GATHER_S and all(host.caught_up for host in there)
            self._gathered = whole or waited_s >= GATHER_MOST_S
        return self._gathered

    def _until(self, present: list[Host], newest_s: float) -> float:
        """The end of the next slice."""
        waiting = [host.waiting_s for host in present if host.waiting_s is not None]
        oldest_s = min(waiting, default=newest_s)
        from_s = max(oldest_s, self.horizon.at_s) if self.begun else oldest_s
        return min(newest_s, from_s + SLICE_S) if newest_s - from_s > 2 * SLICE_S else newest_s

    def _lose(self, host: Host, now_s: float) -> Digest | None:
        """What a host leaves behind that is lost: its living ranks, of which nothing is known."""
        mine = dict.fromkeys(self.roster.of_host(host.name), host.why_lost(now_s))
        self.unknown |= mine
        return host.last_word(mine)

    def _keep(self, released: list[tuple[Digest, float]]) -> bool:
        """Make them ready, each with how far our clock is ahead of its host's. Whether the job was started anew."""
        kept, restarted = self.roster.take(released)
        if restarted:
            self._ready = []
            self.unknown.clear()
            self.describe_again()
        for digest in kept:
            if self.unknown:
                for rank in np.frombuffer(digest.ranks, RANK)["rank"].tolist():
                    self.unknown.pop(rank, None)
            self.unknown |= digest.unknown
        fresh = self._asked_for(kept)
        if self._describe and kept:
            with self._lock:
                fresh, self._describe = list(self._groups.values()), False
        if fresh:
            kept[0] = msgspec.structs.replace(kept[0], groups=[*kept[0].groups, *fresh])
        self._ready += kept
        return restarted

    def _note_groups(self, groups: Sequence[GroupFacts]) -> None:
        self._groups |= {facts.group: facts for facts in groups}

    def _asked_for(self, kept: Sequence[Digest]) -> list[GroupFacts]:
        """Groups in which ranks are and that nobody described yet, as where there is no agent beside their first rank. A host
        tells of its first operation in a group in a digest that is whole."""
        asks: list[Ask] = []
        asked: set[int] = set()
        for digest in kept:
            if digest.whole:
                mine = set(np.frombuffer(digest.frames, FRAME)["group"].tolist()).difference(self._groups, asked)
                if mine:
                    asks.append(Ask(next(self._numbers), digest.host, "groups", groups=sorted(mine)))
                    asked |= mine
        found = [facts for answer in self._answers_to(asks, GROUPS_S) for facts in answer.groups]
        with self._lock:
            self._note_groups(found)
        return found

    def _about_process(self, what: str, pid: int, pid_start: int, addresses: Sequence[str] = ()) -> list[Findings]:
        hosts = [
            each.host
            for rank, each in self.roster.places.items()
            if (each.pid, each.pid_start) == (pid, pid_start) and rank not in self.unknown
        ]
        asks = [Ask(next(self._numbers), name, what, pid, pid_start, addresses=list(addresses)) for name in hosts]
        return self._answers_to(asks, EVIDENCE_S)

    def _answers_to(self, asks: list[Ask], timeout_s: float) -> list[Findings]:
        with self._lock:
            self._answers = {each.number: None for each in asks}
        for each in asks:
            self._ask(each)
        with self._lock:
            self._lock.wait_for(lambda: None not in self._answers.values(), timeout_s)
            found, self._answers = [each for each in self._answers.values() if each is not None], {}
        return found


class Horizon:
    """The clock that the watcher goes by."""

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s

    def now_s(self) -> float:
        return self.at_s

    def sleep_s(self, seconds: float) -> None:
        raise AssertionError("the horizon moves when reports come")
