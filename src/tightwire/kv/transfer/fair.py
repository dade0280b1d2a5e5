"""Who is next: several flows share one worker or one link, each gets the same share of bytes.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996): an item's start tag is the later of the queue's virtual
time and its flow's last finish tag; the item with the smallest start tag goes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

F = TypeVar("F", bound=Hashable)
T = TypeVar("T")


@dataclass
class _Flow(Generic[T]):
    finish: float = 0.0
    items: deque[tuple[T, int]] = field(default_factory=deque)


class FairQueue(Generic[F, T]):
    """Items in order within their flow, flows interleaved by bytes. Not thread-safe."""

    def __init__(self) -> None:
        self._flows: dict[F, _Flow[T]] = {}
        self._now = 0.0

    def push(self, flow: F, item: T, size_bytes: int) -> None:
        self._flows.setdefault(flow, _Flow()).items.append((item, size_bytes))

    def peek(self, allowed: Callable[[F], bool] = lambda flow: True) -> tuple[F, T] | None:
        """The next item of the flows that are allowed to have one, left where it is."""
        waiting = [flow for flow, state in self._flows.items() if state.items and allowed(flow)]
        if not waiting:
            return None
        first = min(waiting, key=self._start)
        return first, self._flows[first].items[0][0]

    def pop(self, allowed: Callable[[F], bool] = lambda flow: True) -> tuple[F, T] | None:
        """The same item, taken out."""
        found = self.peek(allowed)
        if found is not None:
            flow = self._flows[found[0]]
            self._now = self._start(found[0])
            flow.finish = self._now + flow.items.popleft()[1]
        return found

    def drop(self, flow: F) -> None:
        """Forget a flow and what it has waiting."""
        self._flows.pop(flow, None)

    def count(self, flow: F) -> int:
        """How many items of the flow wait."""
        return len(self._flows[flow].items) if flow in self._flows else 0

    def _start(self, flow: F) -> float:
        return max(self._now, self._flows[flow].finish)
