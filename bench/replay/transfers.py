"""The latency model against real transfers: two processes, the reference model's KV, a shaped link.

Every prediction is made before its transfer, from the profiles measured at start-up, the link as the transfers before
showed it, and the corrections that they taught.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tightwire.kv import refmodel
from tightwire.kv.demo import fleet, prompts
from tightwire.kv.demo.messages import Calibrate, Calibrated, Decode, Prefill, Sent
from tightwire.kv.demo.run import CANDIDATES

RATES_BYTES_PER_S: tuple[float | None, ...] = (5e6 / 8, 20e6 / 8, 100e6 / 8, 400e6 / 8, None)
TOKENS = (300, 600, 1000, 1500, 1900)


@dataclass(frozen=True)
class Sample:
    rate_bytes_per_s: float | None
    strategy: str
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        return abs(self.predicted_s / self.measured_s - 1)


def measure(rounds: int, say: Callable[[str], None]) -> tuple[list[Sample], str]:
    """`rounds` × rates × lengths transfers, and what kind of link it was."""
    asked = [ids for tokens in TOKENS for ids in prompts.make(1, tokens, seed=tokens)]
    samples = []
    with fleet.start(refmodel.path()) as workers:
        calibrated = workers.prefill.ask(Calibrate(prompts.make(2, 900), list(CANDIDATES)))
        assert isinstance(calibrated, Calibrated)
        for rate in RATES_BYTES_PER_S:
            workers.set_rate(rate)
            for number in range(rounds):
                for index, ids in enumerate(asked):
                    name = f"{rate}-{number}-{index}"
                    workers.decode.tell(Decode(name, ids, 1))
                    workers.prefill.tell(Prefill(name, ids, "auto"))
                    sent, _ = workers.prefill.reply(), workers.decode.reply()
                    assert isinstance(sent, Sent)
                    candidate = sent.decision.candidate if sent.decision else None
                    if candidate is not None:
                        samples.append(Sample(rate, sent.strategy, candidate.corrected.total_s, sent.transfer_s))
            say(f"{rate}: {len(samples)} transfers so far")
        return samples, workers.kind
