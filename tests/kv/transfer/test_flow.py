"""Back-pressure, fairness, cancellation and keys over real sockets."""

import threading
import time

import pytest
import torch
import zmq

from tests.kv.transfer.blocks import FOUR, LAYERS, joined, make_block
from tightwire.core.clock import MonotonicClock
from tightwire.core.events import OPERATION_CODES, Kind, group_fingerprint
from tightwire.errors import ConfigError, LinkError
from tightwire.kv.block import KVBlock
from tightwire.kv.strategy import RAW, Strategy
from tightwire.kv.transfer.receiver import Receiver
from tightwire.kv.transfer.sender import Sender
from tightwire.net.keys import Keys
from tightwire.net.shaper import ShapedLink

CHUNKS = make_block(640).token_chunks(32)
SIZE = CHUNKS[0].raw_bytes
WAIT_S = 20.0


def until(true, timeout_s: float = WAIT_S) -> None:
    end_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def pair():
    receiver = Receiver(max_buffered_bytes=4 * SIZE)
    sender = Sender(receiver.endpoint, window_bytes=4 * SIZE)
    yield sender, receiver
    sender.close()
    receiver.close()


def test_a_slow_taker_holds_the_caller_back_and_memory_is_bounded(pair) -> None:
    sender, receiver = pair
    gate, taken, most = threading.Event(), [], [0]

    def take(block) -> None:
        gate.wait(WAIT_S)
        taken.append(block.token_start)
        most[0] = max(most[0], receiver.buffered_bytes + receiver.queued_bytes)

    results = []
    waiter = threading.Thread(target=lambda: results.append(receiver.wait("a", WAIT_S, take)))
    waiter.start()
    outgoing = sender.start("a", RAW, layers=LAYERS, tokens=640, timeout_s=WAIT_S)
    put = 0
    while put < len(CHUNKS) and _put_soon(outgoing, CHUNKS[put]):
        put += 1
    assert put < 14  # 4 at the sender, some on the way, 4 decoded, one batch taken: never all 20
    gate.set()
    for chunk in CHUNKS[put:]:
        assert outgoing.put(chunk)
    assert outgoing.finish(WAIT_S).ok
    waiter.join()
    assert results[0].ok
    assert taken == list(range(0, 640, 32))
    assert most[0] <= 9 * SIZE


def _put_soon(outgoing, chunk) -> bool:
    """False when it still finds no room after a while."""
    end_s = time.monotonic() + 0.3
    while time.monotonic() < end_s:
        if outgoing.put(chunk, block=False):
            return True
        time.sleep(0.01)
    return False


def test_several_transfers_share_a_slow_link() -> None:
    receiver = Receiver()
    port = int(receiver.endpoint.rsplit(":", 1)[1])
    with ShapedLink(("127.0.0.1", port), 2e6) as link:
        sender = Sender(f"tcp://127.0.0.1:{link.port}")
        sender.probe()
        outgoing = [sender.start(name, RAW, layers=LAYERS, tokens=640, timeout_s=WAIT_S) for name in "ab"]
        for each in outgoing:
            for chunk in CHUNKS:
                each.put(chunk)
        small = sender.start("small", RAW, layers=LAYERS, tokens=32, timeout_s=WAIT_S)
        small.put(CHUNKS[0])
        assert small.finish().total_s < 0.4  # not behind the megabyte and a half of the others
        reports = [each.finish() for each in outgoing]
        assert all(report.ok for report in reports)
        assert abs(reports[0].total_s - reports[1].total_s) < 0.3 * reports[0].total_s
        assert all(receiver.wait(name, WAIT_S).ok for name in ("a", "b", "small"))
        sender.close()
    receiver.close()


def test_the_sender_cancels(pair) -> None:
    sender, receiver = pair
    outgoing = sender.start("a", FOUR, layers=LAYERS, tokens=640, timeout_s=WAIT_S)
    outgoing.put(CHUNKS[0])
    until(lambda: receiver.buffered_bytes)
    outgoing.cancel("the user left")
    assert "the user left" in receiver.wait("a", WAIT_S).error
    assert receiver.buffered_bytes == 0
    with pytest.raises(LinkError, match="the user left"):
        outgoing.put(CHUNKS[1])
    reports = []
    outgoing.finish_async(reports.append)
    assert reports[0].error == "the user left"


def test_the_receiver_cancels_and_a_blocked_caller_hears_it(pair) -> None:
    sender, receiver = pair
    outgoing = sender.start("a", RAW, layers=LAYERS, tokens=640, timeout_s=WAIT_S)
    failures = []

    def put_all() -> None:
        try:
            for chunk in CHUNKS:
                outgoing.put(chunk)
        except LinkError as error:
            failures.append(str(error))

    caller = threading.Thread(target=put_all)
    caller.start()
    until(lambda: receiver.buffered_bytes >= 4 * SIZE)
    receiver.cancel("a", "not wanted")
    caller.join(WAIT_S)
    assert "not wanted" in failures[0]
    assert receiver.buffered_bytes == 0
    with pytest.raises(LinkError, match="not wanted"):
        outgoing.finish()


def test_a_taker_that_raises_ends_the_transfer(pair) -> None:
    sender, receiver = pair
    outgoing = sender.start("a", RAW, layers=LAYERS, tokens=640, timeout_s=WAIT_S)
    outgoing.put(CHUNKS[0])
    with pytest.raises(ZeroDivisionError):
        receiver.wait("a", WAIT_S, lambda block: 1 / 0)
    with pytest.raises(LinkError, match="its receiver failed"):
        outgoing.finish(WAIT_S)


def test_closing_either_side_is_said(pair) -> None:
    sender, receiver = pair
    first = sender.start("a", RAW, layers=LAYERS, tokens=640, timeout_s=WAIT_S)
    first.put(CHUNKS[0])
    until(lambda: receiver.buffered_bytes)
    receiver.close()
    with pytest.raises(LinkError, match="the receiver was closed"):
        first.finish(WAIT_S)
    second = sender.start("b", RAW, layers=LAYERS, tokens=640, timeout_s=WAIT_S)
    sender.close()
    with pytest.raises(LinkError, match="the sender was closed"):
        second.put(CHUNKS[0])
    with pytest.raises(LinkError, match="is closed"):
        sender.start("c", RAW, layers=1, tokens=1)


def test_keys_let_in_who_is_authorized_and_count_strangers() -> None:
    server, friend, stranger = Keys.generate(), Keys.generate(), Keys.generate()
    receiver = Receiver(keys=server, authorized=[friend.public])

    def send(keys: Keys | None):
        sender = Sender(receiver.endpoint, keys=keys)
        try:
            return sender.send("a", CHUNKS, FOUR, layers=LAYERS, tokens=640, timeout_s=WAIT_S)
        finally:
            sender.close()

    assert send(Keys(friend.public, friend.secret, server.public)).ok
    assert receiver.wait("a", WAIT_S).ok
    assert receiver.refused == 0
    clock = MonotonicClock()
    start_s = clock.now_s()
    with pytest.raises(LinkError, match="refused the connection"):
        send(Keys(stranger.public, stranger.secret, server.public))
    until(lambda: receiver.refused >= 1)
    with pytest.raises(LinkError, match="refused the connection"):
        send(None)
    until(lambda: receiver.refused >= 2)
    assert clock.now_s() - start_s < WAIT_S / 2  # at once, not at the timeout
    early = Sender(receiver.endpoint, keys=Keys(stranger.public, stranger.secret, server.public))
    until(lambda: receiver.refused >= 3)  # before there is anything to send
    with pytest.raises(LinkError, match="refused the connection"):
        early.send("c", CHUNKS, FOUR, layers=LAYERS, tokens=640, timeout_s=WAIT_S)
    early.close()
    wrong = Sender(receiver.endpoint, keys=Keys(friend.public, friend.secret, stranger.public))
    with pytest.raises(LinkError):  # a receiver that is not the one we know gets nothing
        wrong.send("b", [], RAW, layers=1, tokens=1, timeout_s=1)
    wrong.close()
    receiver.close()


class Heard:
    """A trace for the tests: kinds by side."""

    def __init__(self) -> None:
        self.events: list[tuple[Kind, int, int, int, int]] = []

    def add(self, *event: int) -> None:
        self.events.append(event)


def test_both_sides_say_each_step_under_the_same_name() -> None:
    here, there = Heard(), Heard()
    receiver = Receiver(trace=there)
    sender = Sender(receiver.endpoint, trace=here)
    assert sender.send("a", CHUNKS, FOUR, layers=LAYERS, tokens=640, timeout_s=WAIT_S).ok
    receiver.wait("a", WAIT_S)
    steps = [Kind.ENTERED, *[Kind.PROGRESS] * len(CHUNKS), Kind.DONE]
    for heard in (here, there):
        assert [event[0] for event in heard.events] == steps
        assert {event[1:4] for event in heard.events} == {
            (group_fingerprint("a", ()), 1, OPERATION_CODES["kv_transfer"])
        }
        sizes = [event[4] for event in heard.events]
        assert sizes == sorted(sizes)
    assert here.events[-1][4] == there.events[-1][4] > 0
    sender.start("b", FOUR, layers=LAYERS, tokens=640, timeout_s=WAIT_S).cancel()
    assert [event[0] for event in here.events[-2:]] == [Kind.ENTERED, Kind.FAILED]
    sender.close()
    receiver.close()


def test_beyond_this_machine_only_with_keys_or_on_request() -> None:
    with pytest.raises(ConfigError, match="insecure"):
        Receiver("tcp://0.0.0.0:*")
    Receiver("tcp://0.0.0.0:*", insecure=True).close()
    Receiver("tcp://0.0.0.0:*", keys=Keys.generate()).close()
    with pytest.raises(ConfigError, match="server"):
        Sender("tcp://127.0.0.1:1", keys=Keys.generate())


def test_a_flood_from_a_stranger_to_the_window_is_held_back(pair) -> None:
    """Frames of a transfer that nobody takes, sent without regard for the window: TCP stops the flood."""
    from tightwire.kv.codec import encode_block
    from tightwire.kv.transfer import protocol

    _, receiver = pair
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.connect(receiver.endpoint)
    socket.send(protocol.encode(protocol.Begin(7, "a", LAYERS, 640)))
    for index in range(400):
        frame = encode_block(CHUNKS[index % 20], RAW)
        socket.send_multipart([protocol.encode(protocol.Part(7, index)), frame])
    until(lambda: receiver.queued_bytes >= 4 * SIZE)
    time.sleep(0.3)
    assert receiver.queued_bytes <= 6 * SIZE
    assert receiver.buffered_bytes <= 5 * SIZE
    socket.close(0)


def test_a_transfer_may_change_its_strategy_in_the_middle(pair) -> None:
    sender, receiver = pair
    asked: list[int] = []

    def revise(encoded_bytes: int) -> Strategy | None:
        asked.append(encoded_bytes)
        return FOUR if encoded_bytes == 5 * SIZE else None

    outgoing = sender.start("a", RAW, layers=LAYERS, tokens=640, timeout_s=WAIT_S, revise=revise)
    blocks: list[KVBlock] = []
    results = []
    waiter = threading.Thread(target=lambda: results.append(receiver.wait("a", WAIT_S, blocks.append)))
    waiter.start()
    for chunk in CHUNKS:
        outgoing.put(chunk)
    report = outgoing.finish(WAIT_S)
    waiter.join(WAIT_S)
    assert results[0].error is None
    assert asked == [index * SIZE for index in range(20)]
    assert {strategy: share.raw_bytes for strategy, share in report.shares.items()} == {RAW: 5 * SIZE, FOUR: 15 * SIZE}
    assert sum(share.wire_bytes for share in report.shares.values()) == report.wire_bytes
    assert sum(share.decode_s for share in report.shares.values()) == pytest.approx(report.decode_s)
    assert all(share.encode_s > 0 < share.decode_s for share in report.shares.values())
    assert report.wire_bytes < 5.5 * SIZE + 15 * SIZE / 3
    whole, got = make_block(640), joined(blocks)
    assert torch.equal(got.k[:, :, :160], whole.k[:, :, :160])
    assert not torch.equal(got.k[:, :, 160:192], whole.k[:, :, 160:192])
    assert (got.k - whole.k).abs().max() < 1


def test_a_chooser_that_fails_ends_its_transfer_only(pair) -> None:
    sender, receiver = pair

    def broken(encoded_bytes: int) -> Strategy | None:
        raise RuntimeError("no idea")

    outgoing = sender.start("a", RAW, layers=LAYERS, tokens=640, timeout_s=WAIT_S, revise=broken)
    outgoing.put(CHUNKS[0])
    with pytest.raises(LinkError, match="no idea"):
        outgoing.finish(WAIT_S)
    waiter = threading.Thread(target=lambda: receiver.wait("b", WAIT_S))
    waiter.start()
    assert sender.send("b", CHUNKS, RAW, layers=LAYERS, tokens=640, timeout_s=WAIT_S).ok
    waiter.join(WAIT_S)
