"""The agent's side of the conversation with a collector, without a socket: what to say next, and what was heard.

| state | until | then |
|---|---|---|
| greeting: a Hello every second | a Welcome says what is wanted | sending |
| sending: reports, a window of them underway | nothing is taken for a while | greeting |
"""

from __future__ import annotations

from collections.abc import Iterator

from tightwire.ccl.fleet.backlog import Backlog
from tightwire.ccl.fleet.messages import VERSION, About, Hello, Report, Taken, Welcome
from tightwire.core.clock import Clock

HELLO_EVERY_S = 1.0
PATIENCE_S = 3.0  # for an answer to what is underway
WINDOW_REPORTS, WINDOW_BYTES = 16, 4 * 2**20


class Sending:
    """`greeting`: nobody has answered lately."""

    def __init__(self, about: About, backlog: Backlog, clock: Clock) -> None:
        self._about, self._backlog, self._clock = about, backlog, clock
        self.greeting = True
        self._cursor = self._taken = 0
        self._first = False  # the next is the first that the collector gets
        self._hello_s: float | None = None
        self._heard_s = 0.0

    def hear(self, message: Welcome | Taken) -> None:
        now_s = self._clock.now_s()
        if isinstance(message, Welcome):
            if message.next is None:
                since_s = now_s - message.replay_s
                self._cursor, self._first = self._backlog.since(since_s, message.replay_bytes), True
            else:
                self._cursor = message.next
            self._taken, self.greeting = self._cursor, False
        else:
            self._taken = max(self._taken, min(message.next, self._cursor))
            self._backlog.delivered(self._taken)
        self._heard_s = now_s

    def lost(self) -> None:
        """The connection broke: what was underway may be lost."""
        if not self.greeting:
            self.greeting, self._hello_s = True, None

    @property
    def idle(self) -> bool:
        """Everything has been delivered."""
        return not self.greeting and self._taken >= self._backlog.next

    def due(self) -> Iterator[Hello | Report]:
        """What to send now; each is stamped as it is taken."""
        now_s = self._clock.now_s()
        if not self.greeting and self._cursor > self._taken and now_s - self._heard_s > PATIENCE_S:
            self.greeting, self._hello_s = True, None
        if self.greeting:
            if self._hello_s is None or now_s - self._hello_s >= HELLO_EVERY_S:
                self._hello_s = now_s
                yield Hello(VERSION, self._about, now_s)
            return
        room = WINDOW_REPORTS - (self._cursor - self._taken)
        if room > 0:
            if self._cursor == self._taken:
                self._heard_s = now_s  # patience begins with the first that is underway
            for entry in self._backlog.read(self._cursor, room, WINDOW_BYTES):
                self._cursor = entry.number + 1
                behind = self._backlog.next - self._cursor
                after, self._first = None if self._first else entry.after, False
                now_s = self._clock.now_s()
                yield Report(self._about, entry.number, after, behind, self._backlog.dropped, now_s, entry.body)
