"""How far the hosts' clocks are apart, from the collectives themselves: all ranks leave a barrier-like operation together.

For each round, a host's ranks left later than the round's median host by its clock's lead (and some noise). The median
over many rounds follows; hosts that share no group are joined by those that share one with both.
"""

from __future__ import annotations

import numpy as np

from tightwire.ccl.analyzer.slow.grid import Floats, Ints
from tightwire.ccl.analyzer.slow.timing import Timing

GAIN = 0.2  # of what a batch of rounds says


class Clocks:
    """`lead_s` [hosts] of each host's clock; one number for each rank's host in `host_of`."""

    def __init__(self, host_of: Ints) -> None:
        self.host_of = host_of
        self.lead_s: Floats = np.zeros(int(host_of.max()) + 1 if len(host_of) else 0)
        self._batches = 0

    def take(self, timing: Timing) -> None:
        """`timing`'s ends are on clocks that `lead_s` corrected already: what is left is the error."""
        if len(self.lead_s) < 2:
            return
        use = timing.together[timing.round] & ~np.isnan(timing.left_s)
        round_of, left_s, host = timing.round[use], timing.left_s[use], self.host_of[timing.rank[use]]
        if not len(round_of):
            return
        order = np.lexsort((left_s, round_of))
        starts = np.flatnonzero(np.diff(round_of[order], prepend=-1))
        sizes = np.diff(np.append(starts, len(order)))
        median = left_s[order][starts + (sizes - 1) // 2]
        error = left_s[order] - np.repeat(median, sizes)
        hosts = host[order]
        by_host = np.lexsort((error, hosts))
        first = np.flatnonzero(np.diff(hosts[by_host], prepend=-1))
        count = np.diff(np.append(first, len(by_host)))
        self._batches += 1
        gain = max(GAIN, 1.0 / self._batches)
        self.lead_s[hosts[by_host][first]] += gain * error[by_host][first + (count - 1) // 2]
