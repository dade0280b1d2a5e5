"""Sender and receiver over real sockets, and in two processes."""

import subprocess
import sys
import threading

import pytest
import torch
import zmq

from tightwire.core.clock import FakeClock
from tightwire.errors import LinkError
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import encode_block
from tightwire.kv.strategy import RAW, Strategy
from tightwire.kv.transfer import protocol
from tightwire.kv.transfer.inbox import Inbox
from tightwire.kv.transfer.receiver import Receiver
from tightwire.kv.transfer.sender import Sender
from tightwire.net.shaper import ShapedLink

FOUR = Strategy.parse("hadamard+uniform:levels=16+pack")


def make_block(tokens: int = 100) -> KVBlock:
    torch.manual_seed(3)
    return KVBlock(torch.randn(3, 2, tokens, 64).to(torch.bfloat16), torch.randn(3, 2, tokens, 64).to(torch.bfloat16))


def send(sender: Sender, name: str, block: KVBlock, strategy: Strategy = RAW) -> object:
    return sender.send(name, block.token_chunks(32), strategy, layers=3, tokens=block.tokens, timeout_s=10)


@pytest.fixture
def receiver():
    made = Receiver(fingerprint="m")
    yield made
    made.close()


def test_raw_arrives_bit_for_bit_and_lossy_close(receiver: Receiver) -> None:
    block, sender = make_block(), Sender(receiver.endpoint, fingerprint="m")
    for name, strategy in (("a", RAW), ("b", FOUR)):
        report = send(sender, name, block, strategy)
        got = receiver.wait(name, 5)
        assert report.ok
        assert got.ok
        assert got.missing == []
        assert got.tokens == 100
        k = torch.cat([part.k for part in got.blocks], dim=2)
        assert torch.equal(k, block.k) if strategy is RAW else (k - block.k).abs().max() < 1
    assert report.ratio > 3
    assert sender.link.estimate() is not None
    sender.close()


def test_waiting_first_and_taking_blocks_as_they_come(receiver: Receiver) -> None:
    seen: list[int] = []
    results = []
    waiter = threading.Thread(
        target=lambda: results.append(receiver.wait("a", 10, lambda b: seen.append(b.token_start)))
    )
    waiter.start()
    sender = Sender(receiver.endpoint, fingerprint="m")
    send(sender, "a", make_block())
    waiter.join()
    assert seen == [0, 32, 64, 96]
    assert results[0].ok
    sender.close()


def test_another_models_frames_are_refused_and_reported(receiver: Receiver) -> None:
    sender = Sender(receiver.endpoint, fingerprint="other")
    report = send(sender, "a", make_block())
    assert "fingerprint" in report.error
    got = receiver.wait("a", 5)
    assert not got.ok
    assert got.missing == [(0, 100)]
    sender.close()


def test_a_damaged_frame_is_missing_and_the_rest_is_there(receiver: Receiver) -> None:
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(receiver.endpoint)
    socket.send(protocol.encode(protocol.Begin("a", 3, 100)))
    for index, chunk in enumerate(make_block().token_chunks(32)):
        frame = bytearray(encode_block(chunk, FOUR, "m"))
        if index == 1:
            frame[-5] ^= 4
        socket.send_multipart([protocol.encode(protocol.Part("a", index)), bytes(frame)])
    socket.send_multipart([b"nonsense"])
    socket.send_multipart([b"too", b"many", b"parts", b"here"])
    socket.send(protocol.encode(protocol.End("a", 4)))
    got = receiver.wait("a", 5)
    assert got.missing == [(32, 64)]
    assert "checksum" in got.error
    socket.close(0)


def test_timeouts_are_said(receiver: Receiver) -> None:
    got = receiver.wait("never", 0.05)
    assert "nothing arrived" in got.error
    sender = Sender("tcp://127.0.0.1:1")
    with pytest.raises(LinkError, match="is the receiver running"):
        sender.send("a", [], RAW, layers=1, tokens=1, timeout_s=0.1)
    sender.close()
    with pytest.raises(LinkError, match="cannot bind"):
        Receiver("tcp://256.0.0.1:99999")


def test_the_measured_speed_is_the_links(receiver: Receiver) -> None:
    port = int(receiver.endpoint.rsplit(":", 1)[1])
    with ShapedLink(("127.0.0.1", port), 1e6) as link:
        sender = Sender(f"tcp://127.0.0.1:{link.port}", fingerprint="m")
        sender.probe()
        send(sender, "a", make_block(400))
        assert sender.link.estimate().bytes_per_s == pytest.approx(1e6, rel=0.3)
        sender.close()


def test_the_inbox_bounds_memory_and_forgets() -> None:
    clock = FakeClock()
    inbox = Inbox(clock, max_buffered_bytes=50_000)
    inbox.begin(protocol.Begin("big", 3, 100))
    for chunk in make_block().token_chunks(32):
        inbox.add("big", chunk, 10, 0.0)
    report = inbox.end(protocol.End("big", 4))
    assert report.error.startswith("limit")
    inbox.begin(protocol.Begin("huge", 2**20, 2**20))
    assert inbox.end(protocol.End("huge", 0)).error.startswith("limit")
    clock.advance_s(1000)
    inbox.begin(protocol.Begin("new", 1, 1))
    assert "unknown" in inbox.end(protocol.End("big", 4)).error


def test_two_processes() -> None:
    code = (
        "import sys, torch\n"
        "from tightwire.kv.transfer.receiver import Receiver\n"
        "receiver = Receiver(fingerprint='m')\n"
        "print(receiver.endpoint, flush=True)\n"
        "got = receiver.wait('a', 30)\n"
        "print(got.ok, sum(float(b.k.float().sum()) for b in got.blocks), flush=True)\n"
        "receiver.close()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    endpoint = process.stdout.readline().strip()
    sender = Sender(endpoint, fingerprint="m")
    block = make_block()
    assert send(sender, "a", block).ok
    ok, total = process.stdout.readline().split()
    process.stdout.close()
    assert process.wait(20) == 0
    assert ok == "True"
    assert float(total) == pytest.approx(sum(float(c.k.float().sum()) for c in block.token_chunks(32)), abs=1e-3)
    sender.close()
