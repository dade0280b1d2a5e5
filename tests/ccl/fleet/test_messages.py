"""What comes from a network is checked before it is believed."""

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.ccl.digests import Action, digest_of, looks
from tests.ccl.fleet.helpers import report, sample
from tightwire.ccl import digest
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.fleet import messages
from tightwire.ccl.fleet.messages import About, Answer, Ask, Bye, Findings, Hello, Report, Taken, Welcome
from tightwire.ccl.summary import GroupFacts
from tightwire.ccl.throttling import Throttling
from tightwire.ccl.transport import End, Socket
from tightwire.errors import LinkError

ABOUT = About("job", "host", 7)


@pytest.mark.parametrize(
    "message",
    [
        Hello(messages.VERSION, ABOUT, 1.5),
        report("host", 3, 2.0, sample(0, 5)),
        Answer(ABOUT, 4, b"body"),
        Bye(ABOUT),
    ],
)
def test_to_the_collector_and_back(message: object) -> None:
    assert messages.decode_to_collector(messages.encode(message)) == message


@pytest.mark.parametrize(
    "message", [Welcome(None, 300.0, 5), Welcome(4, 1.0, 5), Taken(9), Ask(1, "host", "ends", pids={0: 5})]
)
def test_to_the_agent_and_back(message: object) -> None:
    assert messages.decode_to_agent(messages.encode(message)) == message


@given(looks)
def test_a_digest_comes_back(acted: list[tuple[list[Action], ...]]) -> None:
    made = msgspec.structs.replace(digest_of(acted), unseen=["x"], unknown={1: "why"}, whole=True)
    assert messages.unpack(messages.pack(made)) == made


@pytest.mark.parametrize(
    "found",
    [
        Findings(Evidence("T", "wait", 0.0, ["a (b:1)"]), Throttling("/g", 0.5, 0.9)),
        Findings(ends=[End(2, "realm", Socket(9, "10.0.0.1:5", "10.0.0.2:6", 0, False, 0))]),
        Findings(reached=["10.0.0.2:6"], groups=[GroupFacts(1, "world", [0, 1])]),
    ],
)
def test_findings_come_back(found: Findings) -> None:
    assert messages.unpack_findings(messages.pack_findings(found)) == found


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    for decode in (messages.decode_to_collector, messages.decode_to_agent, messages.unpack, messages.unpack_findings):
        with pytest.raises(LinkError):
            decode(data)


@given(st.data())
def test_damaged_messages_are_refused_or_messages(data: st.DataObject) -> None:
    whole = bytearray(messages.encode(report("host", 3, 2.0, sample(0, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = messages.decode_to_collector(bytes(whole))
        if isinstance(found, Report):
            messages.unpack(found.body)
    except LinkError:
        return


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (Hello(99, ABOUT, 0.0), "version 99"),
        (Hello(messages.VERSION, ABOUT, float("nan")), "time that is none"),
        (Hello(messages.VERSION, About("j" * 300, "h", 1), 0.0), "300"),
        (Hello(messages.VERSION, About("", "h", 1), 0.0), "0 or 1"),
        (Report(ABOUT, -1, None, 0, 0, 0.0, b""), "negative"),
        (Report(ABOUT, 1, None, 0, 0, 0.0, bytes(messages.MAX_MESSAGE_BYTES)), "limit"),
        (Taken(3), "not a message"),
    ],
)
def test_out_of_range(message: object, why: str) -> None:
    with pytest.raises(LinkError, match=why):
        messages.decode_to_collector(messages.encode(message))


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "MAX_BYTES", 2**20)
    bomb = zstandard.ZstdCompressor().compress(bytes(2**22))
    assert len(bomb) < 2000
    with pytest.raises(LinkError, match="limit"):
        messages.unpack(bomb)
    stream = zstandard.ZstdCompressor().compressobj()
    with pytest.raises(LinkError):  # does not even say how large it is
        messages.unpack(stream.compress(bytes(2**22)) + stream.flush())


@pytest.mark.parametrize(
    "wrong",
    [{"at_s": float("inf")}, {"ranks": bytes(5)}, {"calls": bytes(digest.CALL.itemsize)}, {"groups": [GroupFacts(-1, "g", [0])]}],
)
def test_digests_out_of_range(wrong: dict) -> None:
    with pytest.raises(LinkError):
        messages.unpack(messages.pack(msgspec.structs.replace(digest_of([([], [], [])]), **wrong)))


@pytest.mark.parametrize("facts", [GroupFacts(-1, "g", [0]), GroupFacts(1, "g", [digest.MAX_RANKS])])
def test_groups_out_of_range(facts: GroupFacts) -> None:
    with pytest.raises(LinkError, match="out of range"):
        messages.unpack_findings(messages.pack_findings(Findings(groups=[facts])))


def test_more_ends_than_a_host_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_ENDS", 1)
    end = End(0, "", Socket(0, "a:1", "b:2", 0, False, 0))
    with pytest.raises(LinkError, match="2 connections"):
        messages.unpack_findings(messages.pack_findings(Findings(ends=[end, end])))
