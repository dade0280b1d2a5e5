"""What a transfer costs: fixed cost, streaming against one stage after the other, loopback, overlap.

Sender and receiver are processes; the shaped link is a relay with a token bucket, which takes some of the processor.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import numpy as np
import torch
import zmq

from harness import Result, parser, publish, time_median_s
from tightwire.core.units import format_rate
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.strategy import RAW, Strategy
from tightwire.kv.transfer.receiver import Receiver
from tightwire.kv.transfer.sender import Sender
from tightwire.net.shaper import ShapedLink

STRATEGY = Strategy.parse("hadamard+uniform:levels=16,axis=group,group=64+pack")
LAYERS, HEADS, DIM, CHUNK_TOKENS = 8, 4, 64, 128
RATES_BYTES_PER_S = (2e6, 20e6, 100e6)
HAS_NIXL = importlib.util.find_spec("nixl") is not None
RANDOM = np.random.default_rng(1)


def make(tokens: int) -> KVBlock:
    k, v = (torch.from_numpy(RANDOM.standard_normal((LAYERS, HEADS, tokens, DIM), np.float32)) for _ in range(2))
    return KVBlock(k.to(torch.bfloat16), v.to(torch.bfloat16))


def serve(pipe: Connection) -> None:
    """A receiver that drops what it gets, and an echo of plain ZeroMQ."""
    torch.set_num_threads(1)
    receiver = Receiver(nixl=HAS_NIXL)
    echo = zmq.Context.instance().socket(zmq.ROUTER)
    port = echo.bind_to_random_port("tcp://127.0.0.1")

    def answer() -> None:
        while True:
            peer, _ = echo.recv_multipart()
            echo.send_multipart([peer, b"ok"])

    threading.Thread(target=answer, daemon=True).start()
    pipe.send((receiver.endpoint, f"tcp://127.0.0.1:{port}"))
    for name in iter(pipe.recv, None):
        pipe.send(receiver.wait(name, 120, lambda block: None).error)


class Peer:
    """The other process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._count = pipe, 0
        self.endpoint, self.echo = pipe.recv()

    def transfer(self, sender: Sender, pieces: list[KVBlock], strategy: Strategy, tokens: int) -> object:
        self._count += 1
        name = f"t{self._count}"
        self._pipe.send(name)
        report = sender.send(name, pieces, strategy, layers=LAYERS, tokens=tokens, timeout_s=120)
        error = self._pipe.recv()
        assert report.ok, report
        assert error is None, error
        return report


@contextlib.contextmanager
def peer() -> Iterator[Peer]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,), daemon=True)
    process.start()
    try:
        yield Peer(here)
    finally:
        process.kill()
        process.join()


def fixed_cost(other: Peer) -> list[Result]:
    """A transfer of one token beside a bare round trip of the same bytes."""
    block = make(1)
    frame = encode_block(block, RAW)
    raw = zmq.Context.instance().socket(zmq.DEALER)
    raw.connect(other.echo)

    def round_trip() -> None:
        raw.send(frame)
        raw.recv()

    sender = Sender(other.endpoint)
    sender.probe()
    bare_s = time_median_s(round_trip, repeats=100, warmups=20)
    ours_s = statistics.median(other.transfer(sender, [block], RAW, 1).total_s for _ in range(100))
    sender.close()
    raw.close(0)
    return [
        Result("fixed_cost_ms.median", (ours_s - bare_s) * 1e3, "ms", "lower", "start to report less the round trip"),
        Result("fixed_cost.zmq_round_trip_ms", bare_s * 1e3, "ms", "lower", f"{len(frame)} bytes there, 2 back"),
    ]


def one_after_the_other(pieces: list[KVBlock]) -> tuple[float, float, int]:
    """Seconds to encode all, to decode all, and the bytes between, in this process alone."""
    frames: list[memoryview] = []

    def encode() -> None:
        frames[:] = [encode_block(piece, STRATEGY) for piece in pieces]

    encode_s = time_median_s(encode, repeats=5)
    decode_s = time_median_s(lambda: [decode_block(frame) for frame in frames], repeats=5)
    return encode_s, decode_s, sum(map(len, frames))


def streaming(other: Peer) -> list[Result]:
    tokens = 2048
    pieces = make(tokens).token_chunks(CHUNK_TOKENS)
    encode_s, decode_s, wire_bytes = one_after_the_other(pieces)
    results, efficiencies = [], []
    for rate in RATES_BYTES_PER_S:
        with ShapedLink(("127.0.0.1", int(other.endpoint.rsplit(":", 1)[1])), rate) as link:
            sender = Sender(f"tcp://127.0.0.1:{link.port}")
            sender.probe()
            total_s = statistics.median(other.transfer(sender, pieces, STRATEGY, tokens).total_s for _ in range(5))
            sender.close()
        stages = [encode_s, wire_bytes / rate, decode_s]
        ideal_s = sum(stages) / len(pieces) + (len(pieces) - 1) / len(pieces) * max(stages)
        efficiencies.append(ideal_s / total_s)
        results.append(
            Result(
                f"streamed_vs_sequential.{rate / 1e6:g}MB_s", sum(stages) / total_s, "x", "higher",
                f"{format_rate(rate)}: encode {encode_s:.3f} + wire {stages[1]:.3f} + decode {decode_s:.3f} s ÷ {total_s:.3f} s",
            )
        )  # fmt: skip
    note = f"tandem queue's ideal ÷ measured, worst of {len(RATES_BYTES_PER_S)} rates"
    return [*results, Result("overlap.efficiency", min(efficiencies), "share", "higher", note)]


def loopback(other: Peer) -> list[Result]:
    tokens = 8192
    block = make(tokens)
    pieces = block.token_chunks(512)
    memory = block.k.contiguous()
    memcpy_bytes_per_s = memory.nbytes / time_median_s(lambda: memory.clone(), repeats=9)
    senders = {"zmq": Sender(other.endpoint), **({"nixl": Sender(other.endpoint, nixl=True)} if HAS_NIXL else {})}
    times: dict[str, list[float]] = {name: [] for name in senders}
    for sender in senders.values():
        sender.probe()
    for _ in range(7):
        for name, sender in senders.items():
            times[name].append(other.transfer(sender, pieces, RAW, tokens).total_s)
    for sender in senders.values():
        sender.close()
    median_s = {name: statistics.median(found) for name, found in times.items()}
    speeds = {name: block.raw_bytes / found for name, found in median_s.items()}
    note = f"{block.raw_bytes / 1e6:.0f} MB raw between two processes, {speeds['zmq'] / 1e9:.2f} GB/s"
    results = [Result("loopback.throughput_vs_memcpy", speeds["zmq"] / memcpy_bytes_per_s, "share", "higher", note)]
    if HAS_NIXL:
        note = f"the same, frames written by NIXL as UCX likes best on this machine, {speeds['nixl'] / 1e9:.2f} GB/s"
        results.append(Result("loopback.nixl_vs_zmq", speeds["nixl"] / speeds["zmq"], "x", "higher", note))
    return results


def main() -> None:
    arguments = parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    started_s = time.monotonic()
    parts: list[Callable[[Peer], list[Result]]] = [fixed_cost, streaming, loopback]
    with peer() as other:
        results = [result for part in parts for result in part(other)]
    publish("transfer", results, arguments.json)
    print(f"took {time.monotonic() - started_s:.0f} s")


if __name__ == "__main__":
    main()
