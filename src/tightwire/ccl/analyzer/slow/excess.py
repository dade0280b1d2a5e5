"""Who stands out: lost time over many steps, against the job's own baseline.

A rank is slow (S1) when the others waited for it longer than usual, it worked longer than usual itself, and both again
and again. Beside such a rank another is slow for which nobody waits, since it waits for the first itself, when it works as
much longer and the others do not. A group's transfer is slow (S2) when its bytes take longer than usual, once all are there, again and again.
Shares are of the baseline's step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tightwire.ccl.analyzer.slow.account import KEPT, Account
from tightwire.ccl.slots import Floats

LEAST_STEPS, LEAST_S, MOST_STEPS = 10, 1.0, 20  # looked back
AGAIN = 0.7  # of these steps
KNOWN = 0.5  # of these steps at least, to say anything
SLOW, DOUBT = 0.2, 0.1  # of a step lost: slow; worth a look at the transport
BESIDE = 0.25  # of the worst: guilty as well
CAP = 3.0  # no single step counts for more than that many


@dataclass(frozen=True)
class Excess:
    """Over the last `steps`: how much longer steps are (`longer`), and by rank (`own`) and by group (`transfer`) the mean
    share of a step lost, by rank also how much longer than the others it works (`work`); 0 where it was not again and
    again."""

    steps: int
    longer: float
    own: Floats
    work: Floats
    transfer: Floats

    @property
    def slow_ranks(self) -> list[int]:
        slow = _worst(self.own, SLOW)
        if not slow:
            return []
        hidden = self.work >= max(BESIDE * float(self.work[slow].max()), SLOW)
        return np.union1d(slow, np.flatnonzero(hidden)).tolist()  # type: ignore[no-any-return]

    @property
    def slow_groups(self) -> list[int]:
        return _worst(self.transfer, SLOW)


def window(step_s: float) -> int:
    """How many steps to look back."""
    return min(max(LEAST_STEPS, math.ceil(LEAST_S / step_s)), MOST_STEPS, KEPT)


def measure(account: Account, steps: int) -> Excess | None:
    """Of the last `steps`. None while there is no baseline, or not as many steps after it."""
    base = account.base
    if base is None or len(account.length_s) < steps:
        return None
    late = _last(account.late_s, steps) - base.late_s
    own = _last(account.own_s, steps) - base.own_s
    transfer = _last(account.transfer_s, steps) - base.transfer_s
    longer = np.minimum(list(account.length_s)[-steps:], (1 + CAP) * base.step_s).mean() / base.step_s - 1
    work = own - np.median(own, axis=1, keepdims=True)
    return Excess(
        steps, float(longer), *(_again(lost_s, base.step_s) for lost_s in (np.minimum(late, own), work, transfer))
    )


def _last(rows: object, steps: int) -> Floats:
    return np.array(list(rows)[-steps:])  # type: ignore[call-overload]


def _again(lost_s: Floats, step_s: float) -> Floats:
    """[T, n] → [n]: the mean share, of those that lost half of what matters in most steps; NaN: not known of that step."""
    share = np.clip(lost_s / step_s, -CAP, CAP)
    known = (~np.isnan(share)).sum(axis=0)
    often = ((share >= DOUBT / 2).sum(axis=0) >= AGAIN * known) & (known >= KNOWN * len(share))
    mean: Floats = np.where(often, np.clip(np.nansum(share, axis=0) / np.maximum(known, 1), 0.0, None), 0.0)
    return mean


def _worst(shares: Floats, least: float) -> list[int]:
    worst = float(shares.max(initial=0.0))
    if worst < least:
        return []
    return np.flatnonzero(shares >= max(BESIDE * worst, least / 2)).tolist()  # type: ignore[no-any-return]
