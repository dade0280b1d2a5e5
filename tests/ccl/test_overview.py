"""The live overview on summaries with a fake clock."""

from tightwire.ccl.overview import Overview
from tightwire.ccl.probe.process import ProcessState
from tightwire.ccl.probe.ring import GroupFrame
from tightwire.ccl.summary import GroupFacts, RankSample, Summary

FACTS = GroupFacts(1, "data", [0, 1, 2])


def summary(at_s: float, counts: dict[int, tuple[int, int]], state: str = "S") -> Summary:
    ranks = [
        RankSample(
            rank, 3, 100 + rank, 1, 0, entered + ended, [GroupFrame(1, entered, 0, ended, 1)],
            ProcessState(state if rank == 2 else "S", 1.0, 0.0, 0),
        )
        for rank, (entered, ended) in counts.items()
    ]  # fmt: skip
    return Summary("host", at_s, ranks, [FACTS])


def test_rates_come_from_the_last_seconds() -> None:
    overview = Overview()
    for second in range(20):
        calls = 10 * second if second < 10 else 100 + 2 * (second - 10)
        overview.take(summary(float(second), dict.fromkeys(range(3), (calls, calls))))
    groups, ranks = overview.tables(19.0)
    assert groups.rows == [["data", "3 of 3", "2.0", "allreduce 118", "-", "-"]]
    assert [row[3] for row in ranks.rows] == ["2.0"] * 3


def test_who_is_behind_and_who_waits_for_it() -> None:
    overview = Overview()
    overview.take(summary(0.0, {0: (9, 9), 1: (9, 9), 2: (9, 9)}))
    overview.take(summary(1.0, {0: (11, 10), 1: (11, 10), 2: (10, 10)}))
    overview.take(summary(4.0, {0: (11, 10), 1: (11, 10), 2: (10, 10)}, state="T"))
    groups, ranks = overview.tables(4.5)
    assert groups.rows[0][4:] == ["2", "2 (-1)"]
    assert [row[5:] for row in ranks.rows] == [["allreduce 11 of data", "2"]] * 2 + [["-", "-"]]
    assert ranks.rows[2][2] == "stopped"
    assert ranks.rows[2][4] == "3.5 s"


def test_of_many_ranks_the_quietest_are_shown() -> None:
    overview, many = Overview(), dict.fromkeys(range(100), (5, 5))
    overview.take(summary(0.0, many))
    overview.take(summary(9.0, {rank: (6, 6) for rank in range(100) if rank != 77} | {77: (5, 5)}))
    _, ranks = overview.tables(9.0)
    assert len(ranks.rows) == 40
    assert "77" in [row[0] for row in ranks.rows]
    assert ranks.notes
