"""Sender and receiver over real sockets, and in two processes."""

import subprocess
import sys
import threading

import pytest
import torch
import zmq

from tests.kv.transfer.blocks import FOUR, joined, layer_of, make_block
from tightwire.errors import ConfigError, LinkError
from tightwire.kv.codec import encode_block
from tightwire.kv.strategy import RAW, Strategy
from tightwire.kv.transfer import protocol
from tightwire.kv.transfer.receiver import Receiver
from tightwire.kv.transfer.sender import Sender
from tightwire.net.shaper import ShapedLink


def send(sender: Sender, name: str, block, strategy: Strategy = RAW) -> object:
    return sender.send(name, block.token_chunks(32), strategy, layers=3, tokens=block.tokens, timeout_s=10)


@pytest.fixture
def receiver():
    made = Receiver(fingerprint="m")
    yield made
    made.close()


@pytest.fixture
def sender(receiver: Receiver):
    made = Sender(receiver.endpoint, fingerprint="m")
    yield made
    made.close()


def test_raw_arrives_bit_for_bit_and_lossy_close(receiver: Receiver, sender: Sender) -> None:
    block = make_block()
    for name, strategy in (("a", RAW), ("b", FOUR)):
        report = send(sender, name, block, strategy)
        got = receiver.wait(name, 5)
        assert report.ok
        assert got.ok
        assert got.missing == []
        assert got.tokens == 100
        k = joined(got.blocks).k
        assert torch.equal(k, block.k) if strategy is RAW else (k - block.k).abs().max() < 1
        assert 0 < report.tail_s <= report.total_s
        assert min(report.encode_s, report.wire_s, report.decode_s) > 0
    assert report.ratio > 3
    assert sender.link.estimate() is not None


def test_waiting_first_and_taking_blocks_as_they_come(receiver: Receiver, sender: Sender) -> None:
    seen: list[int] = []
    results = []
    waiter = threading.Thread(
        target=lambda: results.append(receiver.wait("a", 10, lambda b: seen.append(b.token_start)))
    )
    waiter.start()
    send(sender, "a", make_block())
    waiter.join()
    assert seen == [0, 32, 64, 96]
    assert results[0].ok


def test_layer_by_layer_while_the_caller_computes(receiver: Receiver, sender: Sender) -> None:
    block = make_block()
    outgoing = sender.start("a", FOUR, layers=3, tokens=100, timeout_s=10)
    taken = threading.Event()
    results = []
    waiter = threading.Thread(target=lambda: results.append(receiver.wait("a", 10, lambda b: taken.set())))
    waiter.start()
    for layer in range(3):
        outgoing.put(layer_of(block, layer))
        assert taken.wait(5)  # it is at the receiver before the next layer is put
        taken.clear()
    reports = []
    done = threading.Event()
    outgoing.finish_async(lambda report: (reports.append(report), done.set()))
    assert done.wait(5)
    waiter.join()
    assert reports[0].ok
    assert reports[0].frames == 3
    assert results[0].ok
    outgoing.cancel()  # after the end: nothing happens
    assert outgoing.finish().ok


def test_another_models_frames_are_refused_and_reported(receiver: Receiver) -> None:
    other = Sender(receiver.endpoint, fingerprint="other")
    report = send(other, "a", make_block())
    assert "fingerprint" in report.error
    got = receiver.wait("a", 5)
    assert not got.ok
    assert got.missing == [(0, 100)]
    other.close()


def test_a_damaged_frame_is_missing_and_the_rest_is_there(receiver: Receiver) -> None:
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(receiver.endpoint)
    socket.send(protocol.encode(protocol.Begin(7, "a", 3, 100)))
    frames = [encode_block(chunk, FOUR, "m") for chunk in make_block().token_chunks(32)]
    outside = encode_block(make_block(200).token_chunks(100)[1], FOUR, "m")  # tokens 100 … 199 of an announced 100
    damaged = bytearray(frames[1])
    damaged[-5] ^= 4
    for index, frame in ((3, frames[3]), (0, frames[0]), (0, frames[0]), (1, bytes(damaged)), (2, frames[2]), (4, outside)):
        socket.send_multipart([protocol.encode(protocol.Part(7, index)), frame])  # out of order, one twice
    socket.send_multipart([b"nonsense"])
    socket.send_multipart([b"too", b"many", b"parts", b"here"])
    socket.send_multipart([protocol.encode(protocol.Part(99, 0)), frames[0]])  # of a transfer that never began
    socket.send(protocol.encode(protocol.End(7, 5)))
    got = receiver.wait("a", 5)
    assert got.missing == [(32, 64)]
    assert "checksum" in got.error
    assert len(got.blocks) == 3
    socket.close(0)


def test_timeouts_are_said(receiver: Receiver) -> None:
    got = receiver.wait("never", 0.05)
    assert "nothing arrived" in got.error
    nobody = Sender("tcp://127.0.0.1:1")
    with pytest.raises(LinkError, match="is the receiver running"):
        nobody.send("a", [], RAW, layers=1, tokens=1, timeout_s=0.1)
    with pytest.raises(LinkError, match="is the receiver running"):
        nobody.probe(timeout_s=0.1)
    nobody.close()
    with pytest.raises(LinkError, match="cannot bind"):
        Receiver(receiver.endpoint)
    with pytest.raises(ConfigError, match="tcp://host:port"):
        Sender("nowhere")


def test_the_measured_speed_is_the_links(receiver: Receiver) -> None:
    port = int(receiver.endpoint.rsplit(":", 1)[1])
    with ShapedLink(("127.0.0.1", port), 1e6) as link:
        slow = Sender(f"tcp://127.0.0.1:{link.port}", fingerprint="m")
        slow.probe()
        send(slow, "a", make_block(400))
        assert slow.link.estimate().bytes_per_s == pytest.approx(1e6, rel=0.3)
        slow.close()


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
