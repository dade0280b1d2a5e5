"""Where agents' messages come in through Redis: one thread that owns the connection."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable

from tightwire.ccl.fleet.jobs import Jobs
from tightwire.ccl.fleet.messages import About, Ask, Taken, Welcome, decode_to_collector, encode
from tightwire.ccl.fleet.shares import Shares
from tightwire.ccl.fleet.streams import DOWN_KEPT_S, MOST_DOWN, START, Message, Streams, down, up
from tightwire.core.clock import Clock
from tightwire.errors import LinkError

WAIT_S, AGAIN_S = 0.1, 1.0  # for news, and after a failure


class RedisLobby:
    """Reads what the agents of its share of the jobs wrote into `streams` and hands it to its `jobs`. The server refuses
    strangers, so `refused` stays 0; `nonsense` counts messages that are none. `say` gets a sentence when the state of the
    connection or the share changes."""

    refused = 0

    def __init__(self, streams: Streams, clock: Clock, say: Callable[[str], None]) -> None:
        self._streams, self._clock, self._say = streams, clock, say
        self.jobs = Jobs(clock, self._ask)
        self.nonsense = 0
        self.endpoint = f"Redis at {streams.name}"
        self._asks: deque[tuple[str, Ask]] = deque()
        self._shares = Shares(streams, clock, self._take_job, self._lose_job)
        self._read: dict[str, str] = {}  # stream of a job: the last that was read
        self._fresh = True  # nothing is known of what stands in the streams
        self._told = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._exchange, name="tightwire-lobby", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        with contextlib.suppress(OSError, LinkError):
            self._shares.leave()
        self._streams.close()

    def _ask(self, job: str, ask: Ask) -> None:
        self._asks.append((job, ask))

    def _take_job(self, job: str) -> None:
        self._read[up(job)], self._fresh = START, True
        self._say(f"job {job}: judged here")

    def _lose_job(self, job: str) -> None:
        del self._read[up(job)]
        self.jobs.drop(job)
        self._say(f"job {job}: another collector may have it; it is not judged here any more")

    def _exchange(self) -> None:
        while not self._closing.is_set():
            try:
                self._shares.step()
                self._state("connected")
                if self._fresh:  # what was written before is not underway any more: it comes again
                    for stream in self._read:
                        self._streams.forget(stream)
                    self._fresh = False
                if not self._read:
                    self._closing.wait(WAIT_S)
                    continue
                self._answer(self._streams.read(self._read, WAIT_S))
                while self._asks:
                    job, ask = self._asks.popleft()
                    self._send(About(job, ask.host, 0), ask)
            except (OSError, LinkError) as error:  # also a message larger than any agent's: it goes with all others
                self._state(f"not reached: {error}")
                self._fresh = True
                self._closing.wait(AGAIN_S)
                self._shares.forget_late()

    def _answer(self, messages: list[Message]) -> None:
        self._shares.forget_late()
        replies: dict[tuple[str, str], tuple[About, Welcome | Taken]] = {}  # the last to each says it all
        for message in messages:
            if message.stream not in self._read:
                continue
            self._read[message.stream] = message.number
            try:
                told = decode_to_collector(message.data)
                if up(told.about.job) != message.stream:
                    raise LinkError("a message in another job's stream")
                self._shares.heard(told.about.job)
                reply = self.jobs.take(told, self._clock.now_s())
            except LinkError:
                self.nonsense += 1
                continue
            if reply is not None:
                replies[told.about.job, told.about.host] = told.about, reply
        for about, reply in replies.values():
            self._send(about, reply)
        for stream in {message.stream for message in messages} & self._read.keys():
            self._streams.forget(stream, self._read[stream])

    def _send(self, about: About, message: Welcome | Taken | Ask) -> None:
        self._streams.add(down(about), encode(message), MOST_DOWN, DOWN_KEPT_S)

    def _state(self, state: str) -> None:
        if state != self._told:
            self._told = state
            self._say(f"{self.endpoint}: {state}")
