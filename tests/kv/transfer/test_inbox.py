"""The receiving side's state on a fake clock, without sockets."""

import threading

import pytest

from tests.kv.transfer.blocks import LAYERS, make_block
from tightwire.core.clock import FakeClock
from tightwire.errors import ConfigError, FrameError
from tightwire.kv.transfer.inbox import LOST_S, MAX_TRANSFERS, UNCLAIMED_S, Inbox
from tightwire.kv.transfer.protocol import Ack, Begin, Cancel, End, Report, Taken, ToSender

CHUNKS = make_block(128).token_chunks(32)
DATA = memoryview(b"frame")


class Driver:
    def __init__(self, max_buffered_bytes: int = 10**9) -> None:
        self.clock = FakeClock()
        self.answers: list[ToSender] = []
        self.inbox = Inbox(self.clock, max_buffered_bytes, lambda peer, message: self.answers.append(message))

    def begin(self, stream: int = 1, name: str = "a") -> None:
        self.inbox.begin(b"peer", Begin(stream, name, LAYERS, 128))

    def arrive(self, *indexes: int, stream: int = 1) -> None:
        for index in indexes:
            self.inbox.arrived(b"peer", stream, index, DATA)

    def decode(self, block: object = None) -> None:
        job = self.inbox.next_job()
        self.inbox.decoded(job, block or CHUNKS[job.index], 0.1)

    def end(self, frames: int, stream: int = 1) -> None:
        self.inbox.end(b"peer", End(stream, frames))


def test_out_of_order_and_twice() -> None:
    driver = Driver()
    driver.begin()
    driver.arrive(3, 1, 1, 0, 2)
    driver.end(4)
    for _ in range(4):
        driver.decode()
    driver.arrive(2)  # once more, after the end
    assert driver.answers.count(Taken(1, 1, 0.1)) == 1
    assert [type(answer) for answer in driver.answers].count(Ack) == 5
    assert driver.answers[-2:] == [Report(1, None, [], pytest.approx(0.4))] * 2
    got = driver.inbox.wait("a", 0.0, None)
    assert got.ok
    assert len(got.blocks) == 4
    assert driver.inbox.buffered_bytes == driver.inbox.queued_bytes == 0
    driver.end(4)  # the report was lost
    assert driver.answers[-1] == Report(1, None, [], pytest.approx(0.4))


def test_missing_frames_and_damaged_ones_are_named() -> None:
    driver = Driver()
    driver.begin()
    driver.arrive(0, 2, 3)
    driver.decode()
    driver.decode(FrameError("checksum", "no"))
    driver.decode()
    driver.end(4)
    report = driver.answers[-1]
    assert "frame 2: checksum" in report.error
    assert report.missing == [(32, 96)]
    driver.begin(2, "b")
    driver.end(3, 2)
    assert "0 of 3 frames" in driver.answers[-1].error


@pytest.mark.parametrize(("layers", "tokens"), [(2**20, 2**20), (0, 1), (1, -5)])
def test_announced_sizes_are_checked_before_memory_is_taken(layers: int, tokens: int) -> None:
    driver = Driver()
    driver.inbox.begin(b"peer", Begin(1, "a", layers, tokens))
    assert "limit" in driver.answers[-1].reason
    for stream in range(2, MAX_TRANSFERS + 3):
        driver.inbox.begin(b"peer", Begin(stream, f"t{stream}", 1, 1))
    assert isinstance(driver.answers[-1], Cancel)


def test_what_nobody_takes_is_not_decoded_past_the_bound_and_holds_up_nobody() -> None:
    size = CHUNKS[0].raw_bytes
    driver = Driver(max_buffered_bytes=2 * size)
    driver.begin(1, "unclaimed")
    driver.begin(2, "awaited")
    driver.arrive(0, 1, 2, 3)
    driver.decode()
    driver.decode()
    assert driver.inbox.buffered_bytes == 2 * size
    driver.arrive(0, 1, 2, 3, stream=2)
    driver.end(4, 2)
    results = []
    waiter = threading.Thread(target=lambda: results.append(driver.inbox.wait("awaited", 10, None)))
    waiter.start()
    for _ in range(4):  # one at a time, whenever the waiter has taken the one before
        driver.decode()
    waiter.join(5)
    assert results[0].ok
    assert driver.inbox.buffered_bytes == 2 * size
    assert driver.inbox.queued_bytes == 2 * len(DATA)
    driver.clock.advance_s(UNCLAIMED_S + 1)
    driver.inbox.expire()
    assert driver.inbox.buffered_bytes == driver.inbox.queued_bytes == 0
    assert isinstance(driver.answers[-1], Cancel)


def test_a_second_attempt_starts_over_and_the_first_is_told() -> None:
    driver = Driver()
    driver.begin(1)
    driver.arrive(0)
    driver.begin(2)
    assert driver.answers[-1] == Cancel(1, "another transfer of this name began")
    driver.arrive(1)
    assert driver.answers[-1] == Cancel(1, "another transfer of this name began")
    driver.arrive(0, 1, 2, 3, stream=2)
    driver.end(4, 2)
    for _ in range(4):
        driver.decode()
    assert driver.inbox.wait("a", 0.0, None).ok


def test_cancellation_from_both_sides_frees_memory() -> None:
    driver = Driver()
    driver.begin(1)
    driver.arrive(0, 1)
    driver.decode()
    driver.inbox.cancel("a", "not wanted")
    assert driver.answers[-1] == Cancel(1, "not wanted")
    assert driver.inbox.buffered_bytes == driver.inbox.queued_bytes == 0
    driver.inbox.cancel("later", "not wanted either")
    driver.begin(2, "later")
    assert driver.answers[-1] == Cancel(2, "not wanted either")
    driver.begin(3, "b")
    driver.arrive(0, stream=3)
    driver.inbox.cancelled(Cancel(3, "the user left"))
    assert driver.inbox.wait("b", 0.0, None).error == "the sender gave it up: the user left"
    assert driver.inbox.queued_bytes == 0


def test_timeouts_and_two_waiters() -> None:
    driver = Driver()
    assert "nothing arrived" in driver.inbox.wait("a", 0.0, None).error
    driver.begin()
    assert "not completed" in driver.inbox.wait("a", 0.0, None).error
    assert isinstance(driver.answers[-1], Cancel)
    waiter = threading.Thread(target=lambda: driver.inbox.wait("c", 10, lambda block: None))
    waiter.start()
    errors: list[str] = []
    while not errors:  # until the other thread waits
        try:
            driver.inbox.wait("c", 0.0, None)
        except ConfigError as error:
            errors.append(str(error))
    assert "another thread" in errors[0]
    driver.inbox.close()
    waiter.join(5)
    assert driver.inbox.next_job() is None


def test_a_sender_that_does_not_come_back_is_lost() -> None:
    driver = Driver()
    driver.begin(1)
    driver.begin(2, "b")
    driver.inbox.lost(b"peer")
    driver.inbox.begin(b"peer again", Begin(2, "b", LAYERS, 128))
    driver.clock.advance_s(LOST_S + 0.1)
    driver.inbox.expire()
    assert "lost" in driver.inbox.wait("a", 0.0, None).error
    driver.inbox.arrived(b"peer again", 2, 0, DATA)
    assert isinstance(driver.answers[-1], Ack)
