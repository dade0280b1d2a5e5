"""What an operator may say about how the controller decides."""

from __future__ import annotations

import msgspec

from tightwire.errors import ConfigError


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`workload_budgets`: quality budgets by workload class; a request without a known class gets the most careful of
    them all. `explore_share` of the time of all requests may be spent on exploring; 0 explores nothing. `keep` records
    are remembered.
    Raises ConfigError for values that cannot be."""

    quality_budget: float = 0.97
    workload_budgets: dict[str, float] = {}
    slo_s: float | None = None
    explore_share: float = 0.01
    cooldown_s: float = 10.0
    sample_share: float = 0.05
    keep: int = 256

    def __post_init__(self) -> None:
        shares = {"quality_budget": self.quality_budget, "explore_share": self.explore_share}
        shares |= {"sample_share": self.sample_share}
        shares |= {f"workload_budgets[{name!r}]": budget for name, budget in self.workload_budgets.items()}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"{name}={value} is out of range; use 0 to 1, like 0.97")
        if self.keep < 1 or self.cooldown_s < 0 or (self.slo_s is not None and self.slo_s <= 0):
            raise ConfigError(
                f"keep={self.keep}, cooldown_s={self.cooldown_s}, slo_s={self.slo_s}: use a whole number above zero, "
                "seconds, and seconds above zero or nothing"
            )
