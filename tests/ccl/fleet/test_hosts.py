"""Many hosts as one source: groups that nobody described are asked for, hosts that are lost are unknown."""

from tests.ccl.fleet.helpers import WORLD, report, sample
from tightwire.ccl.collector import Collector
from tightwire.ccl.fleet.hosts import GATHER_S, LOST_S, Hosts
from tightwire.ccl.fleet.messages import Answer, Ask, Findings, pack_findings
from tightwire.ccl.summary import GroupFacts, RankSample
from tightwire.core.clock import FakeClock


class Fleet:
    """Hosts that report in turn; those in `knows` describe groups when asked."""

    def __init__(self, **knows: list[GroupFacts]) -> None:
        self.clock, self.asked, self.knows = FakeClock(100.0), list[Ask](), knows
        self.hosts, self.collector = Hosts(self.clock, self._ask), Collector()
        self.numbers: dict[str, int] = {}

    def tell(self, host: str, *ranks: RankSample) -> None:
        number = self.numbers[host] = self.numbers.get(host, -1) + 1
        self.hosts.take(report(host, number, self.clock.now_s(), *ranks), self.clock.now_s())

    def judge(self, after_s: float = 0.0) -> bool:
        """Whether the job began anew."""
        self.clock.advance_s(after_s)
        anew = self.hosts.advance()
        self.collector.take(self.hosts.look())
        return anew

    def _ask(self, ask: Ask) -> None:
        self.asked.append(ask)
        about = report(ask.host, 0, 0.0).about
        facts = [each for each in self.knows.get(ask.host, []) if each.group in ask.groups]
        self.hosts.take(Answer(about, ask.number, pack_findings(Findings(groups=facts))), self.clock.now_s())


def test_a_group_whose_first_rank_has_no_agent_is_asked_for() -> None:
    fleet = Fleet(second=[WORLD])
    fleet.tell("second", sample(2, 5, 4), sample(3, 5, 4))
    fleet.judge(GATHER_S)
    assert [(ask.host, ask.what, ask.groups) for ask in fleet.asked] == [("second", "groups", [WORLD.group])]
    assert fleet.collector.groups == {WORLD.group: WORLD}
    assert fleet.collector.frames["entered"].tolist() == [0, 0, 5, 5]
    fleet.tell("second", sample(2, 6, 5), sample(3, 6, 5))
    fleet.judge(1.0)
    assert len(fleet.asked) == 1


def test_a_group_that_was_described_is_not_asked_for_and_known_to_the_first_that_is_judged() -> None:
    fleet = Fleet()
    fleet.tell("second", sample(2, 5, 4), sample(3, 5, 4))
    fleet.clock.advance_s(0.1)
    fleet.tell("first", sample(0, 5, 4), sample(1, 5, 4))
    for _ in range(3):
        fleet.clock.advance_s(GATHER_S / 2)
        fleet.tell("second", sample(2, 5, 4), sample(3, 5, 4))
        fleet.tell("first", sample(0, 5, 4), sample(1, 5, 4))
    fleet.judge()
    assert fleet.asked == []
    assert fleet.collector.frames["entered"].tolist() == [5] * 4


def test_who_takes_over_is_told_all_groups_again() -> None:
    fleet = Fleet()
    fleet.tell("first", sample(0, 5, 4), sample(1, 5, 4))
    fleet.judge(GATHER_S)
    fleet.collector = Collector()
    fleet.tell("second", sample(2, 5, 4))
    fleet.judge(1.0)
    assert fleet.collector.groups == {}
    fleet.hosts.describe_again()
    fleet.tell("second", sample(2, 5, 4))
    fleet.tell("first", sample(0, 5, 4), sample(1, 5, 4))
    fleet.judge(1.0)
    assert fleet.collector.groups == {WORLD.group: WORLD}


def test_a_job_that_begins_anew_is_described_to_who_judges_it_then() -> None:
    fleet = Fleet(second=[WORLD])
    fleet.tell("second", sample(2, 5, 4), sample(3, 5, 4))
    fleet.judge(GATHER_S)
    fleet.tell("second", sample(2, 1, 0, pid_start=10**6))
    fleet.collector = Collector()
    assert fleet.judge(1.0)
    assert fleet.collector.groups == {WORLD.group: WORLD}
    assert sorted(fleet.collector.ranks) == [2]


def test_of_a_host_that_is_lost_nothing_is_known_until_it_is_heard_again() -> None:
    fleet = Fleet()
    for _ in range(2):
        fleet.tell("first", sample(0, 5, 4), sample(1, 5, 4))
        fleet.tell("second", sample(2, 5, 4), sample(3, 5, 4))
        fleet.judge(GATHER_S)
    fleet.clock.advance_s(LOST_S)
    fleet.tell("first", sample(0, 5, 4), sample(1, 5, 4))
    fleet.judge()
    assert set(fleet.hosts.unknown) == set(fleet.collector.unknown) == {2, 3}
    assert fleet.collector.frames["done"].tolist() == [4, 4, 5, 5]
    fleet.tell("second", sample(2, 5, 4), sample(3, 5, 4))
    fleet.judge()
    assert fleet.hosts.unknown == fleet.collector.unknown == {}
    assert fleet.collector.frames["done"].tolist() == [4] * 4


def test_a_job_may_have_a_host_for_each_rank() -> None:
    fleet = Fleet()
    for rank in range(5000):
        fleet.tell(f"host{rank}", sample(rank, 5, 4))
    fleet.judge(GATHER_S)
    assert len(fleet.collector.ranks) == 5000
