"""The hash chain: a key says everything that the KV of its chunk depends on, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightwire.errors import ConfigError
from tightwire.kv.store import prefix_keys
from tightwire.kv.store.backend import checked
from tightwire.kv.store.keys import TAIL_TOKENS, tail_keys

TOKENS = st.lists(st.integers(0, 2**20), max_size=60)
SIZES = st.integers(1, 9)


@given(TOKENS, TOKENS, SIZES)
def test_keys_are_common_as_far_as_the_tokens_are(left: list[int], right: list[int], size: int) -> None:
    same = 0
    while same < min(len(left), len(right)) and left[same] == right[same]:
        same += 1
    a, b = prefix_keys("m", None, left, size), prefix_keys("m", None, right, size)
    assert len(a) == len(left) // size
    assert a[: same // size] == b[: same // size]
    assert not set(a[same // size :]) & set(b[same // size :])


@given(TOKENS, TOKENS, SIZES)
def test_what_follows_changes_nothing(tokens: list[int], more: list[int], size: int) -> None:
    keys = prefix_keys("m", None, tokens, size)
    assert prefix_keys("m", None, tokens + more, size)[: len(keys)] == keys


@given(TOKENS, SIZES, SIZES)
def test_other_boundaries_share_no_key(tokens: list[int], size: int, other: int) -> None:
    a, b = set(prefix_keys("m", None, tokens, size)), set(prefix_keys("m", None, tokens, other))
    assert a == b if size == other else not a & b


@given(st.lists(st.integers(0, 1), min_size=8, max_size=8), SIZES)
def test_a_repeated_chunk_gets_a_new_key_each_time(chunk: list[int], size: int) -> None:
    keys = prefix_keys("m", None, chunk * 9, size)
    assert len(set(keys)) == len(keys)


@given(st.lists(st.integers(0, 9), max_size=200), st.integers(1, 90))
def test_a_tail_has_the_key_of_its_tokens_and_all_before(tokens: list[int], size: int) -> None:
    whole, tails = prefix_keys("m", None, tokens, size), tail_keys("m", None, tokens, size)
    rest = len(tokens) - len(whole) * size
    assert [count for count, _ in tails] == list(range(rest // TAIL_TOKENS * TAIL_TOKENS, 0, -TAIL_TOKENS))
    for count, key in tails:
        assert tail_keys("m", None, tokens[: len(whole) * size + count], size)[0] == (count, key)
        other = [*tokens[: len(whole) * size + count - 1], 10]
        assert tail_keys("m", None, other, size)[0] != (count, key)
    assert len({*whole, *(key for _, key in tails)}) == len(whole) + len(tails)


NAMES = st.tuples(st.text(max_size=5), st.none() | st.text(max_size=5), st.text(max_size=5))


@given(NAMES, NAMES)
def test_model_class_and_salt_are_told_apart(
    left: tuple[str, str | None, str], right: tuple[str, str | None, str]
) -> None:
    (key,) = prefix_keys(left[0], left[1], [1, 2], 2, left[2])
    (other,) = prefix_keys(right[0], right[1], [1, 2], 2, right[2])
    assert (key == other) == (left == right)


def test_the_chain_is_what_it_always_was() -> None:
    # Changing it makes every store out there miss: do it on purpose only, with the version in its seed.
    assert prefix_keys("m", "lossless", range(6), 3) == FROZEN


@pytest.mark.parametrize("tokens", [[1.5, 2], ["a", "b"], [2**32, 0], [-1, 0], [None, 1]])
def test_tokens_that_are_none(tokens: list[object]) -> None:
    with pytest.raises(ConfigError, match="whole numbers"):
        prefix_keys("m", None, tokens, 2)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="chunk_tokens=0"):
        prefix_keys("m", None, [1], 0)
    for bad in ("../../etc/passwd", "short", "A" * 20, "a" * 129, "a" * 20 + "\n"):
        with pytest.raises(ConfigError, match="key"):
            checked(bad)


FROZEN = [
    "2054cd3c10e63763755d7b110e81bbce6510020bd101cd306e0a2a23c6540711",
    "435a1537335ffafcf8ecd31e3aa72a5eefa1f5e82eab4e46fbcd2957aec5b8c3",
]
