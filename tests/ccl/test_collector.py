"""The collector on digests as agents may send them."""

from tests.ccl.test_incident import DATA, sample
from tightwire.ccl.collector import Collector
from tightwire.ccl.digest import Digest
from tightwire.ccl.packing import Packer
from tightwire.ccl.summary import Summary


def test_calls_may_come_before_the_groups_that_they_are_in() -> None:
    """A ring may show a call before the file that describes its group is read."""
    collector, packer = Collector(), Packer()
    collector.take([packer.digest(Summary("host", 42.0, [sample(0, {1: (1, 1)})], []))])
    assert list(collector.ranks) == [0]
    samples = [sample(rank, {1: (2, 1)}) for rank in range(3)]
    collector.take([packer.digest(Summary("host", 43.0, samples, [DATA]))])
    assert sorted(collector.ranks) == [0, 1, 2]
    assert collector.frames["entered"].tolist() == [2, 2, 2]


def test_what_a_rank_waits_in_does_not_count_while_it_is_unknown() -> None:
    collector, packer = Collector(), Packer()
    samples = [sample(rank, {1: (2, 1)}) for rank in range(3)]
    collector.take([packer.digest(Summary("host", 42.0, samples, [DATA]))])
    collector.take([Digest("host", 42.5, unknown={1: "why"})])
    assert collector.unknown == {1: "why"}
    assert collector.frames["done"].tolist() == [1, 2, 1]
    assert collector.completed([0, 1]) == 2  # nothing that was not seen
    collector.take([packer.digest(Summary("host", 43.0, samples, [DATA]))])
    assert collector.unknown == {}
    assert collector.frames["done"].tolist() == [1, 1, 1]
    collector.take([packer.digest(Summary("host", 44.0, samples, [DATA], unknown={2: "its ring"}))])
    assert collector.frames["done"].tolist() == [1, 1, 2]
