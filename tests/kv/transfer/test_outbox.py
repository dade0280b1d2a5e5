"""The sending side's state on a fake clock, without sockets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kv.transfer.blocks import LAYERS, make_block
from tightwire.kv.codec import encode_block
from tightwire.kv.strategy import RAW
from tightwire.kv.transfer import protocol
from tightwire.kv.transfer.fair import FairQueue
from tightwire.kv.transfer.outbox import OBSERVED_S, Outbox, Stream
from tightwire.kv.transfer.protocol import (
    Ack,
    Begin,
    Cancel,
    End,
    Hello,
    Part,
    Ping,
    Report,
    Taken,
    ToReceiver,
    Welcome,
)
from tightwire.kv.transfer.wire import TARGET_DELAY_S, Wire
from tightwire.net.estimator import LinkEstimator

BLOCK = make_block(32)
FRAME_BYTES = len(encode_block(BLOCK, RAW))


class Driver:
    """An outbox, a time, and what it said."""

    def __init__(self, window_bytes: int = 10**9) -> None:
        self.outbox, self.now_s = Outbox(window_bytes, LinkEstimator(), "tcp://peer:1"), 0.0
        self.outbox.hello()

    def start(self, number: int = 1, timeout_s: float = 10.0) -> Stream:
        stream = Stream(number, f"t{number}", RAW, LAYERS, 32 * 100, timeout_s, self.now_s)
        self.outbox.start(stream, self.now_s)
        return stream

    def put(self, stream: Stream) -> None:
        self.outbox.stage(stream, BLOCK, self.now_s)
        self.encode()

    def encode(self) -> None:
        """What may be encoded now."""
        while (job := self.outbox.next_staged()) is not None:
            staged, index, block = job
            self.outbox.encoded(staged, index, block.raw_bytes, RAW, encode_block(block, RAW), 0.1, self.now_s)

    def welcome(self, boot: int = 5) -> None:
        self.outbox.received(Welcome(boot, self.now_s, 10**9, 10**9), self.now_s)

    def said(self) -> list[ToReceiver]:
        """Everything that may be said now."""
        found = []
        while (parts := self.outbox.next_message(self.now_s)) is not None:
            found.append(protocol.decode_to_receiver(parts[0]))
        return found


def test_nothing_but_hello_before_the_welcome_then_begin_parts_end() -> None:
    driver = Driver()
    stream = driver.start()
    driver.put(stream)
    assert driver.said() == [Hello(protocol.VERSION)]
    driver.welcome()
    driver.outbox.all_put(stream, 0.0)
    assert driver.said() == [Ping(0), Begin(1, "t1", LAYERS, 3200), Part(1, 0), End(1, 1)]
    driver.outbox.received(Ack(1, 0, 0.5), 0.5)
    driver.outbox.received(Taken(1, 0), 0.6)
    assert driver.outbox.held_bytes == 0
    driver.outbox.received(Report(1, None, [], 0.0), 0.7)
    assert stream.over
    assert driver.outbox.ended == [stream]
    assert driver.outbox.streams == []


def test_after_a_lost_connection_what_was_not_taken_goes_again() -> None:
    driver = Driver()
    stream = driver.start()
    driver.put(stream)
    driver.welcome()
    driver.put(stream)
    driver.outbox.all_put(stream, 0.0)
    driver.said()
    driver.outbox.received(Taken(1, 0), 0.1)
    driver.outbox.lost()
    driver.outbox.hello()
    assert driver.said() == [Hello(protocol.VERSION)]
    driver.welcome()
    assert driver.said() == [Ping(0), Begin(1, "t1", LAYERS, 3200), Part(1, 1), End(1, 2)]


def test_a_frame_taken_before_it_went_again_is_not_sent() -> None:
    driver = Driver()
    stream = driver.start()
    driver.welcome()
    driver.put(stream)
    driver.put(stream)
    driver.outbox.received(Taken(1, 0), 0.1)
    driver.outbox.all_put(stream, 0.2)
    assert [m for m in driver.said() if isinstance(m, Part | End)] == [Part(1, 1), End(1, 2)]


def test_a_restarted_receiver_gets_everything_or_the_transfer_fails() -> None:
    driver = Driver()
    whole, released = driver.start(1), driver.start(2)
    driver.welcome()
    for stream in (whole, released):
        driver.put(stream)
        driver.put(stream)
    driver.said()
    driver.outbox.received(Taken(2, 0), 0.1)
    driver.outbox.lost()
    driver.outbox.hello()
    driver.welcome(boot=6)
    assert "restarted" in released.error
    assert [m for m in driver.said() if isinstance(m, Part)] == [Part(1, 0), Part(1, 1)]


def test_only_those_that_wait_for_the_receiver_expire() -> None:
    driver = Driver()
    computing, waiting = driver.start(1), driver.start(2)
    driver.welcome()
    driver.put(waiting)
    driver.outbox.expire(9.0)
    driver.outbox.received(Ack(2, 0, 9.0), 9.0)  # a sign
    driver.outbox.expire(18.0)
    assert not waiting.over
    driver.outbox.expire(19.5)
    assert "gave no sign" in waiting.error
    assert not computing.over
    assert Cancel(2, waiting.error) in driver.said()
    assert driver.outbox.held_bytes == 0


def test_a_transfer_that_nobody_takes_leaves_room_for_another() -> None:
    driver = Driver(window_bytes=8 * FRAME_BYTES)
    stuck, other = driver.start(1), driver.start(2)
    while driver.outbox.has_room(stuck, BLOCK.raw_bytes):
        driver.put(stuck)
    assert 3 * FRAME_BYTES <= stuck.held_bytes <= 4 * FRAME_BYTES
    assert driver.outbox.has_room(other, BLOCK.raw_bytes)
    huge = Driver(window_bytes=10)
    assert huge.outbox.has_room(huge.start(), BLOCK.raw_bytes)  # alone, anything goes


def test_a_frame_that_the_receiver_would_not_take_is_said() -> None:
    driver = Driver()
    stream = driver.start()
    driver.outbox.received(Welcome(1, 0.0, 10**9, 100), 0.0)
    driver.put(stream)
    assert "smaller pieces" in stream.error


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 100)), max_size=60))
def test_fair_queue_keeps_order_and_shares_bytes(items: list[tuple[int, int]]) -> None:
    queue: FairQueue[int, int] = FairQueue()
    for number, (flow, size) in enumerate(items):
        queue.push(flow, number, size)
    out = []
    while (found := queue.pop()) is not None:
        out.append(found)
        # While two flows wait, neither is ahead of the other by more than an item of each.
        served = {flow: sum(items[n][1] for f, n in out if f == flow) for flow in range(4)}
        waiting = [flow for flow in range(4) if queue.count(flow)]
        assert all(abs(served[a] - served[b]) <= 200 for a in waiting for b in waiting)
    assert sorted(number for _, number in out) == list(range(len(items)))
    for flow in range(4):
        own = [number for f, number in out if f == flow]
        assert own == sorted(own)


@pytest.mark.parametrize("bytes_per_s", [1e5, 1e7, 1e9])
def test_little_is_underway_but_the_link_never_idles(bytes_per_s: float) -> None:
    """A link simulated on the wire's own clock: 2000 frames of 16 KiB, or as many as pass in a minute."""
    wire, size, now_s, free_s = Wire(10**9), 16384, 0.0, 0.0
    wire.latency_s = 0.001
    underway: list[tuple[float, int]] = []
    busy_s, longest_s, sent = 0.0, 0.0, 0
    while sent < 2000 and now_s < 60:
        while wire.has_room(size):
            free_s = max(free_s, now_s) + size / bytes_per_s
            wire.sent((1, sent), size, now_s)
            underway.append((free_s + 0.001, sent))
            sent += 1
        arrival_s, index = underway.pop(0)
        if sent > 500:
            longest_s = max(longest_s, free_s - arrival_s)
        now_s = arrival_s + 0.001
        busy_s += wire.arrived((1, index), arrival_s)
    assert busy_s == pytest.approx(arrival_s, rel=0.05, abs=0.01)  # the window grows first
    assert longest_s <= max(4 * TARGET_DELAY_S, 2 * size / bytes_per_s)
    assert wire.arrived((1, index), 0.0) is None  # a second acknowledgement


def test_pieces_are_encoded_a_little_ahead_of_the_link() -> None:
    driver = Driver()
    stream = driver.start()
    driver.welcome()
    driver.said()
    driver.outbox.wire._window_bytes = 0.0  # the link takes two frames and no more
    for _ in range(10):
        driver.put(stream)
    assert len(stream.frames) == 3
    assert len([m for m in driver.said() if isinstance(m, Part)]) == 2
    driver.encode()
    assert len(stream.frames) == 5
    assert stream.encoded_bytes == 5 * BLOCK.raw_bytes


def test_the_estimator_learns_within_a_transfer_and_counts_nothing_twice() -> None:
    driver = Driver()
    seen: list[tuple[int, float]] = []
    driver.outbox._link.observe = lambda size, busy_s: seen.append((size, busy_s))  # type: ignore[method-assign]
    stream = driver.start()
    driver.welcome()
    for index in range(4):
        driver.put(stream)
        driver.said()
        driver.now_s += 0.5 * OBSERVED_S
        driver.outbox.received(Ack(1, index, driver.now_s), driver.now_s)
    assert len(seen) == 2
    driver.outbox.received(Report(1, None, [], 0.0), driver.now_s)
    assert sum(size for size, _ in seen) == stream.arrived_bytes > 4 * BLOCK.raw_bytes
    assert sum(busy_s for _, busy_s in seen) == pytest.approx(stream.wire_s)
