"""Looks at the transport: when the next one is due, and which are kept to compare what is now with what was before."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tightwire.ccl.analyzer.slow import links
from tightwire.ccl.analyzer.slow.links import Flows
from tightwire.ccl.connections import Connections

LATELY, QUIET = 64, 6  # looks kept
EVERY_S, FIRST_S, FIRST = 3.0, 0.4, 6  # between looks; between the first of these while nothing is wrong
DOUBTFUL_EVERY_S, UNEVEN = 0.3, 0.5  # at most, and by what share sooner
GOLDEN = (math.sqrt(5) - 1) / 2
ENOUGH, ENOUGH_S = 3, 0.6  # looks since the first doubt, and their time, before they are judged

Look = tuple[float, npt.NDArray[np.void]]


class Looks:
    """Those while nothing was wrong, the farther apart the older they are, and those lately: since the first doubt, once
    there is one."""

    def __init__(self) -> None:
        self._lately: deque[Look] = deque(maxlen=LATELY)
        self._quiet: list[Look] = []
        self._count = 0

    def take(self, now_s: float, connections: Connections, doubting: bool) -> None:
        """All connections between ranks, with their counters now."""
        look = now_s, links.look(connections)
        self._count += 1
        self._lately.append(look)
        if not doubting:
            self._quiet.append(look)
            if len(self._quiet) > QUIET:
                del self._quiet[closest([at_s for at_s, _ in self._quiet])]

    def begin(self) -> None:
        """Something may be wrong from now on."""
        self._lately.clear()

    @property
    def soon_s(self) -> float:
        """From the last look to the next while attentive. Uneven: looks in step with the job would all find the same part of
        a step, and never the bytes that stand in a queue in another (golden-ratio sampling)."""
        return DOUBTFUL_EVERY_S * (1 - UNEVEN * (GOLDEN * self._count % 1))

    def due(self, now_s: float, attentive: bool, doubting: bool) -> bool:
        """Whether it is time for the next."""
        if not self._lately:
            return True
        calm_s = EVERY_S if doubting or len(self._quiet) >= FIRST else FIRST_S
        return now_s - self._lately[-1][0] >= (self.soon_s if attentive else calm_s)

    @property
    def enough(self) -> bool:
        """Whether those lately say something."""
        return len(self._lately) >= ENOUGH and self._lately[-1][0] - self._lately[0][0] >= ENOUGH_S

    def now(self) -> Flows:
        """From those lately."""
        return links.flows([look for _, look in self._lately])

    def before(self, onset_s: float) -> Flows:
        """From those before it began: the accounts may be some steps behind; else from all but the newest."""
        quiet = [look for at_s, look in self._quiet if at_s <= onset_s]
        if len(quiet) < 2:
            quiet = [look for _, look in (self._quiet[:-1] if len(self._quiet) > 2 else self._quiet)]
        return links.flows(quiet)


def closest(at_s: Sequence[float]) -> int:
    """Which of these growing times can go best, so that those left are the farther apart the older they are: the accounts may
    be some steps behind, and at the first look not all connections were there yet."""
    return min(range(1, len(at_s) - 2), key=lambda at: (at_s[-1] - at_s[at - 1]) / (at_s[-1] - at_s[at + 1]))
