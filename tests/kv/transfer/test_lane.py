"""Order on the lane, with a writer that is made up: real writes are in test_nixl.py."""

import pytest

from tightwire.kv.transfer import protocol
from tightwire.kv.transfer.lane import Key, Lane
from tightwire.kv.transfer.protocol import Ack, End, Memory, Part, Ping, Welcome

FRAME = memoryview(b"frame")


class Writer:
    """Writes where `offset` says; `states` by key: what became of a write."""

    def __init__(self) -> None:
        self.offset: int | None = 7
        self.states: dict[Key, bool | None] = {}
        self.memory: Memory | None = None
        self.free: list[Key] = []

    def aim(self, memory: Memory | None) -> None:
        self.memory = memory

    def write(self, key: Key, frame: memoryview, now_s: float) -> int | None:
        if self.offset is not None:
            self.states[key] = False
        return self.offset

    def written(self, key: Key, now_s: float) -> bool | None:
        return self.states[key]

    def arrived(self, key: Key) -> None:
        self.free.append(key)

    def close(self) -> None:
        pass


class Said:
    def __init__(self, writer: Writer | None) -> None:
        self.messages: list[list[bytes | memoryview]] = []
        self.lane = Lane(self.messages.append, writer)

    def put(self, message: protocol.ToReceiver, *frame: memoryview) -> None:
        self.lane.put([protocol.encode(message), *frame], 0.0)
        self.lane.flush(0.0)

    def heard(self) -> list[tuple[protocol.ToReceiver, int]]:
        """What arrived, with how many parts."""
        return [(protocol.decode_to_receiver(message[0]), len(message)) for message in self.messages]


def test_without_a_writer_all_goes_at_once() -> None:
    said = Said(None)
    said.put(Part(1, 0), FRAME)
    said.put(End(1, 1))
    assert said.heard() == [(Part(1, 0), 2), (End(1, 1), 1)]
    assert not said.lane.waits


def test_what_follows_a_frame_waits_until_it_is_written() -> None:
    writer = Writer()
    said = Said(writer)
    said.put(Ping(3), memoryview(b"padding"))  # two parts, and no frame
    said.put(Part(1, 0), FRAME)
    said.put(End(1, 1))
    assert said.heard() == [(Ping(3), 2)]
    assert said.lane.waits
    writer.states[1, 0] = True
    said.lane.flush(1.0)
    assert said.heard()[1:] == [(Part(1, 0, 7, len(FRAME)), 1), (End(1, 1), 1)]
    said.lane.heard(Ack(1, 0, 0.0))
    assert writer.free == [(1, 0)]


@pytest.mark.parametrize("when", ["no room", "not written in time"])
def test_frames_that_cannot_be_written_go_by_zeromq(when: str) -> None:
    writer = Writer()
    said = Said(writer)
    if when == "no room":
        writer.offset = None
    said.put(Part(1, 0), FRAME)
    if when != "no room":
        writer.states[1, 0] = None
        said.lane.flush(9.0)
    assert said.heard() == [(Part(1, 0), 2)]


def test_a_lost_connection_drops_what_waits_and_forgets_the_memory() -> None:
    writer = Writer()
    said = Said(writer)
    said.lane.heard(Welcome(1, 0.0, 1, 1, Memory(b"agent", 1, 2)))
    assert writer.memory == Memory(b"agent", 1, 2)
    said.put(Part(1, 0), FRAME)
    said.lane.lost()
    assert writer.memory is None
    assert not said.lane.waits
    assert said.messages == []
