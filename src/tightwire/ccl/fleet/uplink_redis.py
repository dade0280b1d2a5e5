"""An agent's connection to its collector through Redis."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from tightwire.ccl.fleet.answering import Answering
from tightwire.ccl.fleet.backlog import Backlog
from tightwire.ccl.fleet.messages import About, Answer, Bye, Hello, Report, encode
from tightwire.ccl.fleet.streams import MOST_UP, START, Streams, down, up
from tightwire.ccl.fleet.uplink import Uplink
from tightwire.core.clock import Clock
from tightwire.errors import LinkError
from tightwire.net.resp import ServerError

TICK_S, SOON_S, AGAIN_S = 0.25, 0.02, 1.0  # between two questions for news: idle, while reports are underway, after a failure


class RedisUplink(Uplink):
    """Through `streams`."""

    def __init__(
        self, streams: Streams, about: About, backlog: Backlog, answering: Answering, clock: Clock, say: Callable[[str], None]
    ) -> None:  # fmt: skip
        self._streams, self._heard = streams, START
        super().__init__(f"Redis at {streams.name}", about, backlog, answering, clock, say)

    def _exchange(self) -> None:
        waiting = select.poll()
        waiting.register(self._waker.fd, select.POLLIN)
        fresh = True  # nothing is known of what stands in the stream: it was for an agent before
        while not self._closing:
            try:
                if fresh:
                    self._streams.forget(down(self._about))
                    fresh = False
                self._receive()
                for message in self._due():
                    self._send(message)
                pause_s = TICK_S if self._sending.idle or self._sending.greeting else SOON_S
            except (OSError, LinkError) as error:
                self._sending.lost()
                refused = isinstance(error, ServerError)
                self._state(f"refused: {error}" if refused else f"not reached: {error}")
                pause_s = AGAIN_S
            if waiting.poll(int(1000 * pause_s)):
                self._waker.clear()
        try:
            if not self._sending.greeting:
                self._send(Bye(self._about))
        except (OSError, LinkError):
            return
        finally:
            self._streams.close()

    def _receive(self) -> None:
        for _, number, data in self._streams.read({down(self._about): self._heard}):
            self._heard = number
            self._hear(data)

    def _send(self, message: Hello | Report | Answer | Bye) -> None:
        if isinstance(message, Hello):
            self._streams.announce(self._about.job, time.time())
        self._streams.add(up(self._about.job), encode(message), MOST_UP)
