import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightwire.errors import LinkError
from tightwire.kv.transfer import protocol
from tightwire.kv.transfer.protocol import Ack, Begin, Cancel, End, Hello, Part, Ping, Pong, Report, Taken, Welcome

INT = st.integers(-(2**63), 2**64 - 1)
NUMBER = st.integers(0, 2**62)
COUNT = st.integers(0, protocol.MAX_FRAMES)
TEXT = st.text(max_size=protocol.MAX_ID_CHARS)
SECONDS = st.floats(allow_nan=False, allow_infinity=False)
TO_RECEIVER = st.one_of(
    st.builds(Hello, NUMBER), st.builds(Begin, NUMBER, TEXT, NUMBER, NUMBER), st.builds(Part, NUMBER, COUNT),
    st.builds(End, NUMBER, COUNT), st.builds(Cancel, NUMBER, TEXT), st.builds(Ping, NUMBER),
)  # fmt: skip
TO_SENDER = st.one_of(
    st.builds(Welcome, NUMBER, SECONDS, NUMBER, NUMBER), st.builds(Ack, NUMBER, COUNT, SECONDS),
    st.builds(Taken, NUMBER, COUNT), st.builds(Pong, NUMBER, SECONDS), st.builds(Cancel, NUMBER, TEXT),
    st.builds(Report, NUMBER, st.none() | TEXT, st.lists(st.tuples(NUMBER, NUMBER)), SECONDS),
)  # fmt: skip


@given(TO_RECEIVER, TO_SENDER)
def test_messages_come_back_as_they_were(there: protocol.ToReceiver, back: protocol.ToSender) -> None:
    assert protocol.decode_to_receiver(protocol.encode(there)) == there
    assert protocol.decode_to_sender(protocol.encode(back)) == back


@given(st.binary(max_size=200) | st.recursive(INT | st.text() | st.none(), st.lists, max_leaves=8).map(msgspec.msgpack.encode))
def test_anything_else_is_a_link_error(data: bytes) -> None:
    for decode in (protocol.decode_to_receiver, protocol.decode_to_sender):
        try:
            message = decode(data)
        except LinkError:
            continue
        assert decode(protocol.encode(message)) == message


@given(TO_RECEIVER, st.data())
def test_a_damaged_message_is_another_message_or_a_link_error(message: protocol.ToReceiver, data: st.DataObject) -> None:
    packed = bytearray(protocol.encode(message))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(LinkError):
        protocol.decode_to_receiver(bytes(packed))


@pytest.mark.parametrize(
    "message",
    [
        Begin(1, "x" * (protocol.MAX_ID_CHARS + 1), 1, 1),
        Part(1, -1),
        Part(1, protocol.MAX_FRAMES + 1),
        End(1, 2**40),
        Cancel(1, "x" * (protocol.MAX_TEXT_CHARS + 1)),
        Cancel(1, "x" * protocol.MAX_MESSAGE_BYTES),
    ],
)
def test_limits(message: protocol.ToReceiver) -> None:
    with pytest.raises(LinkError, match=r"limit|out of range"):
        protocol.decode_to_receiver(protocol.encode(message))


def test_a_time_must_be_one() -> None:
    with pytest.raises(LinkError, match="a time that is none"):
        protocol.decode_to_sender(protocol.encode(Ack(1, 1, float("nan"))))
