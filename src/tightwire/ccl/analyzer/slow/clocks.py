"""How far the hosts' clocks are apart, from the collectives themselves: all ranks leave a barrier-like operation together.

For each round, a host's ranks left later than the round's median host by its clock's lead (and some noise). The median
over many rounds follows; hosts that share no group are joined by those that share one with both.
"""

from __future__ import annotations

import numpy as np

from tightwire.ccl.analyzer.slow.timing import Timing
from tightwire.ccl.slots import Floats, Ints

GAIN = 0.2  # of what a batch of rounds says
TIMES = 4  # each rank's leave-takings in a batch that are looked at, about, those in large groups first
ENOUGH = 4096  # of all ranks; of more ranks one each


class Clocks:
    """`lead_s` [hosts] of each host's clock."""

    def __init__(self) -> None:
        self.lead_s: Floats = np.zeros(0)
        self._batches = 0

    def grow(self, hosts: int) -> None:
        self.lead_s = np.append(self.lead_s, np.zeros(max(hosts - len(self.lead_s), 0)))

    def take(self, timing: Timing, host_of: Ints) -> None:
        """`timing`'s ends are on clocks that `lead_s` corrected already: what is left is the error. `host_of` each rank."""
        if len(self.lead_s) < 2:
            return
        members = _members(timing, max(min(TIMES * len(host_of), ENOUGH), len(host_of)))
        left_s = timing.left_s[members]
        use = ~np.isnan(left_s)
        round_of, left_s, host = timing.round[members][use], left_s[use], host_of[timing.rank[members][use]]
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


def _members(timing: Timing, most: int) -> Ints:
    """Indexes of the members of barrier-like rounds, the largest rounds first, up to about `most`."""
    sizes = np.diff(np.append(timing.starts, len(timing.round)))
    rounds = np.flatnonzero(timing.together)
    rounds = rounds[np.argsort(-sizes[rounds], kind="stable")]
    rounds = np.sort(rounds[np.cumsum(sizes[rounds]) - sizes[rounds] < most])
    sizes = sizes[rounds]
    begins = np.cumsum(sizes) - sizes
    found: Ints = np.repeat(timing.starts[rounds] - begins, sizes) + np.arange(sizes.sum())
    return found
