"""A message is checked before it is one."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightwire.errors import LinkError
from tightwire.net.messages import decode

NUMBERS = msgspec.msgpack.Decoder(dict[str, int])


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 2**63)))
def test_what_was_said_is_heard(said: dict[str, int]) -> None:
    assert decode(NUMBERS, msgspec.msgpack.encode(said), 10**6, "numbers") == said


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    try:
        assert isinstance(decode(NUMBERS, data, 10**6, "numbers"), dict)
    except LinkError as error:
        assert "not numbers" in str(error)


def test_what_is_too_large_is_not_read() -> None:
    with pytest.raises(LinkError, match="numbers of 11 bytes; the limit is 10"):
        decode(NUMBERS, b"\x80" + bytes(10), 10, "numbers")
