"""Right class, exact place, and innocents accused."""

import pytest

from tightwire.ccl.score import Outcome, Truth, judge, judge_several, total
from tightwire.ccl.verdict import Verdict


def said(
    anomaly: str,
    ranks: list[int],
    links: list[str] | None = None,
    confidence: str = "high",
    ended_s: float | None = None,
) -> Verdict:
    return Verdict(anomaly, ranks, confidence, "", "", "", 0, [], [], 0.0, 1.0, links or [], ended_s)


DEVICE, LINK = Truth("S2", [2]), Truth("S2", [], ["1-2"])
BOTH = Truth("S2", [2], ["4-5"])


@pytest.mark.parametrize(
    ("truth", "verdicts", "outcome"),
    [
        (DEVICE, [], Outcome(False, False, False)),
        (DEVICE, [said("S2", [2], ["1-2", "2-3"])], Outcome(True, True, False)),
        (DEVICE, [said("S1", [2])], Outcome(False, True, False)),
        (DEVICE, [said("S2", [], ["1-2"])], Outcome(True, False, False)),
        (DEVICE, [said("S2", [], ["0-1"])], Outcome(True, False, True)),
        (DEVICE, [said("S2", [1], ["1-2"], "low")], Outcome(True, False, False)),
        (DEVICE, [said("S2", [2], ["1-2", "4-5"])], Outcome(True, False, True)),
        (BOTH, [said("S2", [2], ["1-2", "4-5"])], Outcome(True, True, False)),
        (BOTH, [said("S2", [2], ["1-2"])], Outcome(True, False, False)),
        (LINK, [said("S2", [], ["1-2"])], Outcome(True, True, False)),
        (LINK, [said("S2", [2], ["1-2"])], Outcome(True, False, True)),
        (LINK, [said("S2", [], ["1-2"]), said("S2", [], ["1-2"], ended_s=3.0)], Outcome(True, True, False)),
        (DEVICE, [said("S2", [3]), said("S2", [2])], Outcome(True, True, True)),
    ],
)
def test_one_run(truth: Truth, verdicts: list[Verdict], outcome: Outcome) -> None:
    assert judge(truth, verdicts) == outcome


STOPPED, DIFFERS = Truth("H1", [3]), Truth("H2", [7])


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        ([said("H2", [7]), said("H1", [3])], Outcome(True, True, False)),
        ([said("H1", [3]), said("H2", [7])], Outcome(True, True, False)),
        ([said("H2", [7])], Outcome(False, False, False)),
        ([said("H2", [7]), said("H1", [7])], Outcome(True, False, False)),
        ([said("H2", [7]), said("H1", [3, 4])], Outcome(True, False, True)),
        ([said("H2", [7]), said("H1", [3]), said("H3", [], ["1-2"])], Outcome(False, True, True)),
        ([said("H2", [7]), said("H1", []), said("H1", [3])], Outcome(True, True, False)),
    ],
)
def test_classes_that_began_at_once_are_judged_each_by_itself(verdicts: list[Verdict], outcome: Outcome) -> None:
    assert judge_several([STOPPED, DIFFERS], verdicts) == outcome
    assert judge_several([DIFFERS], verdicts) == judge(DIFFERS, verdicts)


def test_many_runs() -> None:
    score = total(
        [
            Outcome(True, True, False),
            Outcome(True, False, True),
            Outcome(False, False, False),
            Outcome(True, True, False),
        ]
    )
    assert (score.runs, score.class_accuracy, score.location_accuracy, score.high_confidence_wrong) == (4, 0.75, 0.5, 1)
    assert total([]).runs == 0
