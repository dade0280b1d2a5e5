"""A digest comes back from the wire as it was; what is none is refused, and what does not fit together is left out."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ccl.digests import FACTS, Action, digest_of, looks
from tightwire.ccl import digest
from tightwire.ccl.batch import batches
from tightwire.ccl.collector import Collector
from tightwire.ccl.digest import CALL, FRAME, RANK, Digest
from tightwire.ccl.summary import GroupFacts
from tightwire.errors import LinkError

BUSY: list[tuple[list[Action], ...]] = [([(0, 0, 1), (0, 1, 2)], [(0, 0, 1)], [(0, 0, 3), (1, 0, 0)])]


@given(looks)
def test_it_comes_back(acted: list[tuple[list[Action], ...]]) -> None:
    made = digest_of(acted)
    assert digest.decode(digest.encode(made)) == made


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
def test_rows_that_do_not_fit_together_are_left_out_and_others_kept(part: str, column: str, value: int) -> None:
    good = digest_of(BUSY)
    bad = changed(msgspec.structs.replace(good, host="bad"), part, column, value)
    (batch,) = batches([good, bad])
    assert [each.host for each in batch.digests] == ["host"]
    assert len(batch.calls.sequence) == len(good.calls) // CALL.itemsize


@given(looks, st.sampled_from(["ranks", "frames", "calls", "kinds"]), st.integers(1, 7))
def test_half_a_row_is_left_out(acted: list[tuple[list[Action], ...]], part: str, more: int) -> None:
    made = digest_of(acted)
    (batch,) = batches([msgspec.structs.replace(made, **{part: getattr(made, part) + bytes(more)})])
    assert list(batch.digests) == []


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
