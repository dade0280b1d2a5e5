"""When operations end: asked for, not called back.

A callback would make the backend's own threads wait for the GIL, and a caller that waits for the backend while it holds
the GIL would then wait for ever. So a thread asks each pending `Work` whether it is completed, and `Work.wait`, where
most callers wait, notes the end at once. gloo's send, recv and reduce_scatter end only there and never say so.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from tightwire.ccl.probe.rank import Channel

IDLE_S, BUSY_S = 0.05, 0.005
UNHELD_S = 1.0  # a send or recv that nobody holds any more after this will never be waited for
SWEPT, SWEPT_IN_CALL, MAX_PENDING = 64, 4, 1024
_OUR_REFERENCES = 3  # the table's, the loop's and getrefcount's own


class Pending:
    """One operation that was entered and is not known to have ended. `work` is None while the call has not returned,
    `address` that of its first tensor; `on_host`: its backend works on CPU tensors, so that `wait` waits for its end."""

    __slots__ = ("address", "channel", "on_host", "operation", "point_to_point", "sequence", "since_s", "work")

    def __init__(
        self, channel: Channel, sequence: int, operation: int, point_to_point: bool, on_host: bool, address: int
    ) -> None:
        self.work: Any = None
        self.channel, self.sequence, self.operation = channel, sequence, operation
        self.point_to_point, self.on_host, self.address = point_to_point, on_host, address
        self.since_s = time.monotonic()


class Works:
    """All pending operations of this rank, by the identity of their `Work`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._pending: dict[int, Pending] = {}
        self._sweeping = threading.Lock()

    def add(self, pending: Pending, work: Any) -> None:
        pending.work = work
        self._pending[id(work)] = pending
        if len(self._pending) > MAX_PENDING:  # works of a kind that never says so, and that nobody waits for
            self._pop(next(iter(self._pending.values())), False)

    def end(self, pending: Pending, failed: bool) -> None:
        """Note an end that is known."""
        channel = pending.channel
        self._writer.done(channel.slot, channel.fingerprint, pending.sequence, pending.operation, failed)

    def watch(self) -> None:
        """From now on, for as long as the process lives."""
        _note_waits(self)
        threading.Thread(target=self._keep_sweeping, name="tightwire-sweep", daemon=True).start()

    def sweep(self, most: int | None = None) -> None:
        """Note what has ended, of the oldest `most` or of all; whoever returns from here knows that nothing is half
        noted."""
        if self._pending:
            with self._sweeping:
                for pending in list(itertools.islice(self._pending.values(), most)):
                    self._ask(pending)

    def forget(self) -> None:
        """In a forked child: these are its parent's."""
        self._pending = {}

    def of_work(self, work: Any) -> Pending | None:
        return self._pending.get(id(work))

    def of_tensor(self, address: int) -> Pending | None:
        """The newest one whose first tensor is there."""
        there = [p for p in list(self._pending.values()) if p.address == address] if address else []
        return max(there, key=lambda p: p.since_s, default=None)

    def wait(self, pending: Pending, wait: Callable[[], Any]) -> Any:
        """Call `wait`, which waits for `pending`, and note that."""
        self._writer.waiting(pending.channel.slot, pending.sequence)
        ended = pending.on_host
        try:
            return wait()
        except BaseException:
            ended = False
            raise
        finally:
            self._writer.waiting(pending.channel.slot, 0)
            if ended:
                self._pop(pending, False)
            else:
                self._ask(pending)

    def _ask(self, pending: Pending) -> None:
        try:
            ended = pending.work.is_completed()
            failed = ended and pending.on_host and _failed(pending.work)
        except Exception:
            ended = failed = True
        if not ended and pending.point_to_point and time.monotonic() - pending.since_s > UNHELD_S:
            ended = sys.getrefcount(pending.work) <= _OUR_REFERENCES
        if ended:
            self._pop(pending, failed)

    def _pop(self, pending: Pending, failed: bool) -> None:
        if self._pending.pop(id(pending.work), None) is not None:  # under the GIL only one of two threads gets it out
            self.end(pending, failed)

    def _keep_sweeping(self) -> None:
        while True:
            time.sleep(BUSY_S if self._pending else IDLE_S)
            self.sweep(SWEPT)
            self._rotate()

    def _rotate(self) -> None:
        """Let others have their turn where there are more than one sweep asks."""
        with self._sweeping:
            for key in list(self._pending)[:SWEPT] if len(self._pending) > SWEPT else ():
                pending = self._pending.pop(key, None)
                if pending is not None:
                    self._pending[key] = pending


def _failed(work: Any) -> bool:
    """Whether a completed operation ended in error. Asked by its future: `is_success` is deprecated and says so."""
    try:
        future = work.get_future()
    except RuntimeError:  # it has none
        return False
    try:
        future.value()
    except Exception:
        return True
    return False


def _note_waits(works: Works) -> None:
    original = dist.Work.wait

    # bears the name of what it replaces: pybind looks at it to tell a call of the base class from one that it should
    # send to a Python subclass
    def wait(self: Any, *args: Any, **kwargs: Any) -> Any:
        pending = works.of_work(self)
        if pending is None:
            return original(self, *args, **kwargs)
        return works.wait(pending, lambda: original(self, *args, **kwargs))

    wait.__doc__ = original.__doc__
    dist.Work.wait = wait  # type: ignore[method-assign]
