"""An agent's connection to its collector through Redis: one thread that owns the connection. Nothing waits for it."""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable

from tightwire.ccl.fleet.answering import Answering
from tightwire.ccl.fleet.backlog import Backlog
from tightwire.ccl.fleet.messages import About, Answer, Ask, Bye, Hello, Report, decode_to_agent, encode
from tightwire.ccl.fleet.sending import Sending
from tightwire.ccl.fleet.streams import MOST_UP, START, Streams, down, up
from tightwire.ccl.fleet.uplink_zmq import MAX_ANSWERS
from tightwire.core.clock import Clock
from tightwire.errors import LinkError
from tightwire.net.resp import ServerError
from tightwire.net.sockets import Waker

TICK_S, SOON_S, AGAIN_S = 0.25, 0.02, 1.0  # between two questions for news: idle, while reports are underway, after a failure


class RedisUplink:
    """Through `streams`. `say` gets a sentence when the state of the connection changes."""

    def __init__(
        self, streams: Streams, about: About, backlog: Backlog, answering: Answering, clock: Clock, say: Callable[[str], None]
    ) -> None:  # fmt: skip
        self._streams, self._about, self._say = streams, about, say
        self._answering = answering
        answering.deliver = self._deliver
        self._sending = Sending(about, backlog, clock)
        self._answers: deque[Answer] = deque(maxlen=MAX_ANSWERS)
        self._waker = Waker()
        self._closing, self._told = False, ""
        self._heard = START
        self._thread = threading.Thread(target=self._exchange, name="tightwire-uplink", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something new in the backlog."""
        self._waker.wake()

    @property
    def idle(self) -> bool:
        """Everything has been delivered."""
        return self._sending.idle

    def close(self) -> None:
        """Says goodbye, if anybody listens."""
        self._closing = True
        self._waker.wake()
        self._thread.join()
        self._waker.close()

    def _deliver(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._waker.wake()

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
                self._send_all()
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
            try:
                message = decode_to_agent(data)
            except LinkError:
                continue
            if isinstance(message, Ask):
                self._answering.take(message)
            else:
                self._sending.hear(message)
                self._state("connected")

    def _send_all(self) -> None:
        while self._answers:
            self._send(self._answers.popleft())
        for message in self._sending.due():
            self._send(message)

    def _send(self, message: Hello | Report | Answer | Bye) -> None:
        if isinstance(message, Hello):
            self._streams.announce(self._about.job, time.time())
        self._streams.add(up(self._about.job), encode(message), MOST_UP)

    def _state(self, state: str) -> None:
        if state != self._told:
            self._told = state
            self._say(f"Redis at {self._streams.name}: {state}")
