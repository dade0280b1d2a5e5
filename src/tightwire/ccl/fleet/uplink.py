"""An agent's connection to collectors: one thread that owns it. Nothing waits for it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator

from tightwire.ccl.fleet.answering import Answering
from tightwire.ccl.fleet.backlog import Backlog
from tightwire.ccl.fleet.messages import About, Answer, Ask, Hello, Report, decode_to_agent
from tightwire.ccl.fleet.sending import Sending
from tightwire.core.clock import Clock
from tightwire.errors import LinkError
from tightwire.net.sockets import Waker

MAX_ANSWERS = 64


class Uplink(ABC):
    """To `name`, in words; `say` gets a sentence when the state of the connection changes. A subclass calls `__init__` last:
    that starts `_exchange` in the thread."""

    def __init__(
        self, name: str, about: About, backlog: Backlog, answering: Answering, clock: Clock, say: Callable[[str], None]
    ) -> None:  # fmt: skip
        self._name, self._about, self._say = name, about, say
        self._answering = answering
        answering.deliver = self._deliver
        self._sending = Sending(about, backlog, clock)
        self._answers: deque[Answer] = deque(maxlen=MAX_ANSWERS)
        self._waker = Waker()
        self._closing, self._told = False, ""
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

    @abstractmethod
    def _exchange(self) -> None:
        """Until `_closing`: `_hear` what comes, send what is `_due`, wait for either or for `_waker`."""

    def _hear(self, data: bytes | memoryview) -> bool:
        """Whether it was a message."""
        try:
            message = decode_to_agent(data)
        except LinkError:
            return False
        if isinstance(message, Ask):
            self._answering.take(message)
        else:
            self._sending.hear(message)
            self._state("connected")
        return True

    def _due(self) -> Iterator[Hello | Report | Answer]:
        while self._answers:
            yield self._answers.popleft()
        yield from self._sending.due()

    def _state(self, state: str) -> None:
        if state != self._told:
            self._told = state
            self._say(f"{self._name}: {state}")

    def _deliver(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._waker.wake()
