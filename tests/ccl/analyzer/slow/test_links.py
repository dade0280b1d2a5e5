"""Links by their counters: which one bounds, and whether it is one link or one rank's device."""

import pytest

from tightwire.ccl.analyzer.slow import links
from tightwire.ccl.connections import columns
from tightwire.ccl.inet_diag import Socket
from tightwire.ccl.transport import Connection

MB = 10**6
RING = [(0, 1), (1, 2), (2, 3), (3, 0)]


def end(pair: tuple[int, int], at: int, rate: float = 100 * MB, **other: float) -> Connection:
    """A connection that sends 1 MB between two looks, at `rate` while it does; a slow one has bytes in its queue."""
    queued = int(other.get("queued", 1000 if rate < 100 * MB else 0))
    sent = Socket(
        0, f"{pair[0]}:{pair[1]}", f"{pair[1]}:{pair[0]}", queued, False, 0, at * MB, 0,
        at * MB / rate, other.get("receiver", 0.0) * at, other.get("rtt_s", 0.0002), int(other.get("delivery", rate)),
    )  # fmt: skip
    return Connection(*pair, sent)


def looks(**changed: dict[str, float]) -> links.Flows:
    """Of a ring in which some pairs (`p12`) differ."""
    return flows([[end(pair, at, **changed.get(f"p{pair[0]}{pair[1]}", {})) for pair in RING] for at in range(4)])


def flows(seen: list[list[Connection]]) -> links.Flows:
    return links.flows([links.look(columns(each)) for each in seen])


QUIET = looks()
NOTHING = links.flows([])


def test_flows_are_what_was_sent_between_the_looks() -> None:
    flow = QUIET.get((1, 2))
    assert (flow.sent_bytes, flow.busy_s, flow.queued) == (3 * MB, pytest.approx(0.03), 0.0)
    assert flow.speed_bytes_per_s == pytest.approx(100 * MB)


def test_one_slow_pair_is_a_link() -> None:
    found = links.find(QUIET, looks(p12={"rate": 5 * MB, "queued": 1000, "rtt_s": 0.01}))
    assert (found.pairs, found.devices) == (((1, 2),), ())
    now, before = found.flows[1, 2]
    assert now.speed_bytes_per_s < before.speed_bytes_per_s / 10


def test_the_answers_to_what_its_sender_receives_share_the_queue_of_a_device() -> None:
    answered_late = {"rate": 6 * MB, "delivery": 100 * MB, "rtt_s": 0.005}
    found = links.find(QUIET, looks(p12={"rate": 5 * MB, "rtt_s": 0.01}, p01=answered_late))
    assert (found.pairs, found.devices) == (((1, 2),), (1,))


def test_answers_that_a_busy_machine_gives_late_now_and_then_share_no_queue() -> None:
    """A millisecond later than usual beside a link that is slower by as much: half the time under way, in a real job."""
    answered_late = {"rate": 10 * MB, "delivery": 100 * MB, "rtt_s": 0.0012}
    found = links.find(QUIET, looks(p12={"rate": 5 * MB, "rtt_s": 0.0018}, p01=answered_late))
    assert (found.pairs, found.devices) == (((1, 2),), ())


def test_several_slow_pairs_of_one_rank_are_its_device() -> None:
    found = links.find(QUIET, looks(p12={"rate": 5 * MB}, p01={"rate": 6 * MB}))
    assert (found.pairs, found.devices) == (((0, 1), (1, 2)), (1,))


def test_what_a_slow_device_sends_is_no_sign_of_another_at_its_peer() -> None:
    pairs = [*((rank, (rank + 1) % 8) for rank in range(8)), (4, 2), (6, 2)]
    slow = {(1, 2), (3, 4), (4, 5), (4, 2)}  # rank 4's device, and a link

    def seen(slow: set[tuple[int, int]]) -> links.Flows:
        return flows([[end(p, at, **({"rate": 5 * MB, "rtt_s": 0.01} if p in slow else {})) for p in pairs] for at in range(4)])

    found = links.find(seen(set()), seen(slow))
    assert (found.devices, found.alone) == ((4,), ((1, 2),))


def test_a_link_that_only_waits_for_the_one_that_bounds_is_innocent() -> None:
    found = links.find(QUIET, looks(p12={"rate": 5 * MB}, p23={"rate": 20 * MB, "queued": 0}))
    assert (found.pairs, found.devices) == (((1, 2),), ())


def test_a_slow_link_whose_packets_do_not_wait_longer_is_innocent() -> None:
    changed = {"p12": {"rate": 5 * MB, "queued": 1000, "rtt_s": 0.008}, "p23": {"rate": 20 * MB, "queued": 1000, "rtt_s": 0.0005}}
    found = links.find(QUIET, looks(**changed))
    assert (found.pairs, found.devices) == (((1, 2),), ())


def test_a_link_that_costs_little_beside_another_is_innocent_even_where_that_one_is_not_told() -> None:
    """Looks in step with the job never met the queue of the slow link, and once that of another: 0.1 s of 1.5 s."""
    dawdling = {"p12": {"rate": 5 * MB, "queued": 0, "rtt_s": 0.006}, "p23": {"rate": 30 * MB, "queued": 1000, "rtt_s": 0.005}}
    assert links.find(QUIET, looks(**dawdling)) is None
    assert links.find(QUIET, looks(p23=dawdling["p23"])).pairs == ((2, 3),)
    reading_late = {**dawdling, "p12": {"rate": 5 * MB, "receiver": 0.2, "queued": 0}}
    assert links.find(QUIET, looks(**reading_late)).pairs == ((2, 3),)


def test_one_that_sends_as_much_to_another_as_ever_has_no_slow_device() -> None:
    both_ways = [*RING, *(pair[::-1] for pair in RING)]
    slow = {(1, 2): {"rate": 5 * MB, "rtt_s": 0.01}, (0, 1): {"rtt_s": 0.009}}
    now = flows([[end(pair, at, **slow.get(pair, {})) for pair in both_ways] for at in range(4)])
    found = links.find(flows([[end(pair, at) for pair in both_ways] for at in range(4)]), now)
    assert (found.pairs, found.devices) == (((1, 2),), ())


def test_what_always_took_long_is_no_sign_of_a_device() -> None:
    before = looks(p01={"rtt_s": 0.004})
    now = looks(p12={"rate": 5 * MB, "rtt_s": 0.01}, p01={"rtt_s": 0.005})
    assert links.find(before, now).devices == ()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"p12": {"rate": 5 * MB, "receiver": 0.9}},  # the receiver does not read
        {"p12": {"rate": 5 * MB, "queued": 0}},  # the sender dawdles: it has no processor, perhaps
        {"p12": {"rate": 5 * MB, "delivery": 100 * MB}},  # a lull: the kernel saw it go faster
        {f"p{a}{b}": {"rate": 60 * MB} for a, b in RING},  # all a little slower: the machine
    ],
)
def test_nothing_stands_out(changed: dict[str, dict[str, float]]) -> None:
    assert links.find(QUIET, looks(**changed)) is None


@pytest.mark.parametrize(("by_sockets", "speed"), [(1, 5 * MB), (20, 100 * MB)])
def test_what_nccl_counts_is_passed_over_where_sockets_carry_it(by_sockets: int, speed: float) -> None:
    def look(at: int) -> list[Connection]:
        sent = Socket(0, "nccl:c0ffee:0", "nccl:c0ffee:1", 1000, False, 0, 20 * at * MB, 0, 4.0 * at)  # at 5 MB/s
        return [Connection(0, 1, sent), end((0, 1), by_sockets * at)]

    found = flows([look(at) for at in range(4)])
    assert found.get((0, 1)).speed_bytes_per_s == pytest.approx(speed, rel=0.1)


def test_without_a_baseline_only_a_great_difference_counts() -> None:
    assert links.find(NOTHING, looks(p12={"rate": 30 * MB})) is None
    assert links.find(NOTHING, looks(p12={"rate": 5 * MB})).pairs == ((1, 2),)


def test_a_process_that_talks_to_itself_and_proc_counters_say_nothing() -> None:
    assert len(flows([[end((0, 0), at)] for at in range(2)])) == 0
    blind = Connection(0, 1, Socket(0, "a", "b", 0, False, 0))
    assert len(flows([[blind], [blind]])) == 0
    assert links.find(NOTHING, NOTHING) is None
