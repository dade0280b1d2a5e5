"""What measured times teach about profiled ones: log-residuals, shared where their cause is shared.

A slow machine makes all encoders slow, a slow entropy coder all strategies that end in it, and the rest is a strategy's
own. So the log-residual of a stage is a sum of three unknowns, each with a mean and a variance:

    log(measured ÷ profiled) = machine + family + own + noise,   noise ~ N(0, R)

The unknowns x ~ N(m, P) are independent at first (P₀ diagonal) and a Kalman filter from then on: what one strategy shows
of the machine is known of all. P goes back towards P₀ by and by (discounting: load drifts), and at once for those
concerned where an observation is further away than it allows. UCB (Auer et al. 2002) on the sum says how fast a
strategy may be.
"""

from __future__ import annotations

from math import log

import numpy as np
import numpy.typing as npt

PRIOR_MACHINE, PRIOR_FAMILY, PRIOR_OWN = 0.5**2, 0.7**2, 0.2**2
NOISE = 0.1
TIMING_ERROR_S = 2e-4  # threads wake late: short stages teach little
SURPRISE_DEVIATIONS = 3.0
FORGET = 1 / 4000  # of P₀ comes back with each observation
OPTIMISM_DEVIATIONS = 2.0


class StageSpeed:
    """The factors of one stage (encode or decode) for strategies that are known by number; `families[i]` names the
    family of strategy i. `factor[i]`: measured ÷ profiled as expected; `optimistic[i]`: at the fast end."""

    def __init__(self, families: list[str]) -> None:
        count, names = len(families), list(dict.fromkeys(families))
        # [strategies, 3]: the unknowns that are summed
        self._parts = np.array([[0, 1 + names.index(name), 1 + len(names) + i] for i, name in enumerate(families)])
        self._prior = np.diag([PRIOR_MACHINE] + [PRIOR_FAMILY] * len(names) + [PRIOR_OWN] * count)
        self._mean: npt.NDArray[np.float64] = np.zeros(len(self._prior))
        self._covariance = self._prior.copy()
        self._set()

    def observe(self, index: int, measured_s: float, profiled_s: float) -> None:
        """Strategy `index` took `measured_s` where its profile says `profiled_s`."""
        if measured_s <= 0 or profiled_s <= 0:
            return
        parts = self._parts[index]
        innovation = log(measured_s / profiled_s) - self._mean[parts].sum()
        noise = NOISE**2 + (TIMING_ERROR_S / measured_s) ** 2
        if innovation**2 > SURPRISE_DEVIATIONS**2 * (self._covariance[np.ix_(parts, parts)].sum() + noise):
            self._covariance[parts, parts] += self._prior[parts, parts]
        towards = self._covariance[:, parts].sum(axis=1)
        whole = towards[parts].sum() + noise
        self._mean += towards * (innovation / whole)
        self._covariance -= np.outer(towards, towards) / whole
        self._covariance += FORGET * (self._prior - self._covariance)
        self._set()

    def _set(self) -> None:
        parts = self._parts
        means = self._mean[parts].sum(axis=1)
        spreads = np.sqrt(self._covariance[parts[:, :, None], parts[:, None, :]].sum(axis=(1, 2)))
        self.factor: list[float] = np.exp(means).tolist()
        self.optimistic: list[float] = np.exp(means - OPTIMISM_DEVIATIONS * spreads).tolist()


class Ratio:
    """Raw bytes ÷ wire bytes of each strategy: profiled ones first, then what was seen."""

    WEIGHT = 0.2  # of the newest transfer: other prompts compress otherwise, but not by much

    def __init__(self, profiled: list[float]) -> None:
        self.value = list(profiled)

    def observe(self, index: int, ratio: float) -> None:
        self.value[index] *= (ratio / self.value[index]) ** self.WEIGHT


class FixedCost:
    """Seconds of a transfer that no stage explains; the stages are taken as measured, so that their errors stay out."""

    WEIGHT = 0.1

    def __init__(self) -> None:
        self.seconds = 0.0
        self._seen = False

    def observe(self, measured_s: float, explained_s: float) -> None:
        rest_s = max(measured_s - explained_s, 0.0)
        if not self._seen:
            self.seconds, self._seen = min(rest_s, 0.1 * measured_s), True
            return
        # One transfer in a hundred waits for something else: it moves the cost no further than twice itself.
        rest_s = min(rest_s, 2 * self.seconds + 1e-3)
        self.seconds += self.WEIGHT * (rest_s - self.seconds)
