import pytest

from tightwire.kv.control.records import Candidate, Stages, Trial
from tightwire.kv.control.trials import MOST_CREDIT, Trials


def candidate(name: str, total_s: float, optimistic_s: float, stages_s: float = 1.0) -> Candidate:
    stages = Stages(stages_s / 2, 0.1, stages_s / 2, total_s)
    return Candidate(name, 1.0, stages, stages, total_s, optimistic_s)


def tried(trials: Trials, *candidates: Candidate, pieces: int = 100, slo_s: float | None = None) -> Trial | None:
    totals = [each.expected_s for each in candidates]
    return trials.choose(0, range(1, len(candidates)), candidates, totals, pieces, slo_s)


BEST = candidate("best", 1.0, 1.0)


def test_the_most_promising_gets_one_piece() -> None:
    found = tried(Trials(0.01), BEST, candidate("b", 3.0, 0.9), candidate("c", 4.0, 0.8), candidate("d", 1.0, 0.995))
    assert found == Trial("c", 1)


def test_nothing_is_tried_that_is_known_well_costs_too_much_or_breaks_an_slo() -> None:
    assert tried(Trials(0.01), BEST, candidate("b", 1.2, 1.0)) is None
    assert tried(Trials(0.01), BEST, candidate("b", 100.0, 0.5)) is None
    assert tried(Trials(0.01), BEST, candidate("b", 3.0, 0.5), slo_s=1.001) is None
    assert tried(Trials(0.01), BEST, candidate("b", 3.0, 0.5), slo_s=1.1) == Trial("b", 1)
    assert tried(Trials(0.0), BEST, candidate("b", 3.0, 0.5)) is None


def test_stages_too_short_for_a_clock_get_more_pieces() -> None:
    assert tried(Trials(0.01), BEST, candidate("b", 1.2, 0.5, stages_s=0.04)) == Trial("b", 5)
    assert tried(Trials(0.01), BEST, candidate("b", 1.0, 0.5, stages_s=1e-4)) == Trial("b", 100)  # it costs nothing
    assert tried(Trials(0.01), BEST, candidate("b", 1.3, 0.5, stages_s=1e-4)) is None


@pytest.mark.parametrize("cost", [0.5, 2.0, 40.0])
def test_trials_cost_no_more_than_their_share(cost: float) -> None:
    trials, spent_s = Trials(0.01), 0.0
    for _ in range(1000):
        if tried(trials, BEST, candidate("b", 1.0 + cost, 0.5), pieces=10):
            spent_s += cost / 10
    assert spent_s <= 0.01 * 1000 + MOST_CREDIT
    assert (spent_s > 0) == (cost / 10 <= MOST_CREDIT)
