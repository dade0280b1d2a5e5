"""A digest comes back from the wire as it was; what is none, or does not fit together, is refused."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ccl.digests import FACTS, Action, digest_of, looks
from tightwire import _rounds  # type: ignore[attr-defined]
from tightwire.ccl import digest
from tightwire.ccl.batch import batches
from tightwire.ccl.collector import Collector
from tightwire.ccl.digest import CALL, FRAME, RANK, UNKNOWN, Digest
from tightwire.ccl.packing import Packer
from tightwire.ccl.probe.process import ProcessState
from tightwire.ccl.probe.ring import GroupFrame
from tightwire.ccl.summary import GroupFacts, RankSample, Summary
from tightwire.errors import LinkError

BUSY: list[tuple[list[Action], ...]] = [([(0, 0, 1), (0, 1, 2)], [(0, 0, 1)], [(0, 0, 3), (1, 0, 0)])]


@given(looks)
def test_it_comes_back(acted: list[tuple[list[Action], ...]]) -> None:
    made = digest_of(acted)
    assert digest.decode(digest.encode(made)) == made


@given(st.binary(max_size=500))
def test_calls_come_back_whatever_they_are(rows: bytes) -> None:
    assert _rounds.restore(_rounds.shrink(rows)) == rows
    assert _rounds.shrink(_rounds.restore(rows)) == rows


def test_of_calls_that_follow_each_other_only_how_long_they_took_is_left() -> None:
    calls = np.zeros(100, CALL)
    calls["sequence"] = np.arange(1, 101)
    calls["entered_us"] = 10**6 - 1000 * np.arange(100)
    calls["ended_us"] = calls["entered_us"] - 300
    calls["own_us"] = 700  # since the end of the last
    shrunk = np.frombuffer(_rounds.shrink(calls.tobytes()), np.uint8).reshape(CALL.itemsize, 100)  # [byte of a row, row]
    assert np.flatnonzero(shrunk[:, 1:].any(axis=1)).tolist() == [4, 5, 8, 9]  # of entered_us and ended_us


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(LinkError):
        digest.decode(data)


@given(looks, st.data())
def test_a_cut_digest_is_refused(acted: list[tuple[list[Action], ...]], data: st.DataObject) -> None:
    whole = digest.encode(digest_of(acted))
    with pytest.raises(LinkError):
        digest.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(looks, st.data())
def test_a_damaged_digest_is_refused_or_harmless(acted: list[tuple[list[Action], ...]], data: st.DataObject) -> None:
    whole = bytearray(digest.encode(digest_of(acted)))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    collector = Collector()
    try:
        collector.take([digest.decode(bytes(whole))])
    except LinkError:
        return
    collector.take([msgspec.structs.replace(digest_of(acted), at_s=2e12)])
    assert sorted(collector.ranks)[:3] == [0, 1, 2]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"at_s": float("nan")}, "time"),
        ({"groups": [GroupFacts(-1, "g", [0])]}, "group"),
        ({"groups": [GroupFacts(1, "g", [-1])]}, "group"),
        ({"groups": [GroupFacts(1, "g", [2**63])]}, "group"),
        ({"ranks": bytes(RANK.itemsize * (digest.MAX_HOST_RANKS + 1))}, "limit"),
        ({"unseen": ["x"] * (digest.MAX_UNSEEN + 1)}, "limit"),
        ({"unknown": {digest.MAX_RANKS: "why"}}, "unknown rank"),
        ({"unknown": dict.fromkeys(range(digest.MAX_HOST_RANKS + 1), "why")}, "limit"),
        ({"groups": [GroupFacts(group, "g", [0]) for group in range(digest.MAX_GROUPS + 1)]}, "limit"),
        ({"calls": bytes(digest.MAX_BYTES)}, "limit"),
    ],
)
def test_out_of_range(wrong: dict, why: str) -> None:
    with pytest.raises(LinkError, match=why):
        digest.decode(digest.encode(msgspec.structs.replace(digest_of(BUSY), **wrong)))


def changed(made: Digest, part: str, column: str, value: int) -> Digest:
    rows = np.frombuffer(getattr(made, part), {"ranks": RANK, "frames": FRAME, "calls": CALL}[part]).copy()
    rows[column][0] = value
    return msgspec.structs.replace(made, **{part: rows.tobytes()})


@pytest.mark.parametrize(
    ("part", "column", "value"),
    [
        ("ranks", "calls", 2**32 - 1),  # billions of calls, said to be there
        ("ranks", "frames", 2**16 - 1),
        ("ranks", "rank", 2**32 - 1),
        ("calls", "frame", 255),
        ("calls", "kind", 2**16 - 1),
    ],
)
def test_rows_that_do_not_fit_together_are_refused(part: str, column: str, value: int) -> None:
    bad = changed(digest_of(BUSY), part, column, value)
    with pytest.raises(LinkError, match="not a digest"):
        digest.decode(digest.encode(bad))


@given(looks, st.sampled_from(["ranks", "frames", "calls", "kinds"]), st.integers(1, 7))
def test_half_a_row_is_refused(acted: list[tuple[list[Action], ...]], part: str, more: int) -> None:
    made = digest_of(acted)
    with pytest.raises(LinkError, match="part of a row"):
        digest.decode(digest.encode(msgspec.structs.replace(made, **{part: getattr(made, part) + bytes(more)})))


@given(looks, st.lists(st.booleans(), min_size=3, max_size=3))
def test_without_some_of_its_ranks_it_tells_of_the_others_what_it_did(
    acted: list[tuple[list[Action], ...]], out: list[bool]
) -> None:
    made = msgspec.structs.replace(digest_of(acted), groups=FACTS)
    whole, some = Collector(), Collector()
    whole.take([made])
    some.take([digest.decode(digest.encode(made.without(np.array(out))))])
    assert sorted(some.ranks) == [rank for rank in range(3) if not out[rank]]
    for rank in some.ranks:
        assert some.ranks[rank] == whole.ranks[rank]
        assert some.rounds.calls(rank) == whole.rounds.calls(rank)


def test_of_a_rank_that_is_gone_the_time_of_its_last_operation_is_told() -> None:
    def gone_ms(rank: RankSample) -> int:
        rows = np.frombuffer(Packer().digest(Summary("host", 100.0, [rank], [])).ranks, RANK)
        return int(rows["gone_ms"][0])

    frames = [GroupFrame(1, 4, int(97.5e9), 4, 1), GroupFrame(2, 1, int(90e9), 1, 1)]
    last = RankSample(0, 1, 7, 1, 0, 8, frames, None)
    assert gone_ms(last) == 2500
    assert gone_ms(msgspec.structs.replace(last, frames=[])) == UNKNOWN
    assert gone_ms(msgspec.structs.replace(last, process=ProcessState("R", 1.0))) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 10)), max_size=12))
def test_no_host_is_twice_in_a_batch_and_each_is_in_the_order_of_time(told: list[tuple[str, float]]) -> None:
    made = digest_of(BUSY)
    found = list(batches([msgspec.structs.replace(made, host=host, at_s=at_s) for host, at_s in told]))
    for batch in found:
        assert len({each.host for each in batch.digests}) == len(batch.digests)
    for host in "abc":
        times = [each.at_s for batch in found for each in batch.digests if each.host == host]
        assert times == sorted(at_s for of, at_s in told if of == host)


def test_groups_are_told() -> None:
    assert digest_of(BUSY).groups == FACTS
