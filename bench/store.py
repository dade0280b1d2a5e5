"""Stores: how near a get, a put and a whole prefix's load come to moving the same bytes without us.

KV is bf16 `[8, 8, tokens, 128]`, random; values are frames of 256 tokens. Readers' and writers' buffers are touched.
`prefix_load.overlap` is the time of the slowest of fetching, decoding and handing over, each alone, ÷ that of the load.
With root and redis-server it is measured over links of known speed, too: namespaces, a token bucket on the answers.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from harness import Result, parser, publish, race, time_median_s
from tightwire.core.units import format_rate
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.store import Layout, PrefixStore, Store, open_store, prefix_keys
from tightwire.kv.store.prefix import DEFAULT_CHUNK_TOKENS
from tightwire.kv.strategy import Strategy
from tightwire.net.testbed import Testbed, available, enter

LAYOUT = Layout(8, 8, 128, torch.bfloat16)
CHUNK = DEFAULT_CHUNK_TOKENS
CHUNKS = 16
LOOKUP_CHUNKS = 64
FOUR = Strategy.parse("hadamard+uniform:levels=16,axis=group,group=64+pack")
RATES_BYTES_PER_S = (125e6, 25e6)
PORT = 7399


def make_block(chunks: int) -> KVBlock:
    generator = torch.Generator().manual_seed(1)
    shape = (LAYOUT.layers, LAYOUT.heads, chunks * CHUNK, LAYOUT.head_dim)
    k, v = (torch.randn(shape, generator=generator).to(LAYOUT.dtype) for _ in range(2))
    return KVBlock(k, v)


class Engine:
    """Takes blocks into memory of its own, as an engine does."""

    def __init__(self, block: KVBlock) -> None:
        self.k, self.v = torch.ones_like(block.k), torch.ones_like(block.v)

    def take(self, block: KVBlock) -> None:
        span = slice(block.token_start, block.token_start + block.tokens)
        self.k[:, :, span], self.v[:, :, span] = block.k, block.v


@contextmanager
def redis_server(address: str = "127.0.0.1", namespace: str | None = None) -> Iterator[str | None]:
    """The URL of a server that keeps everything in memory; None where none is installed."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        yield None
        return
    command = [binary, "--port", str(PORT), "--bind", address, "--protected-mode", "no", "--save", "", "--appendonly", "no"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=(lambda: enter(namespace)) if namespace else None)  # fmt: skip
    try:
        time.sleep(0.5)
        yield f"redis://{address}:{PORT}/0"
    finally:
        process.terminate()
        process.wait()


def raw_files(folder: Path, values: list[memoryview]) -> tuple[Callable[[], None], Callable[[], None]]:
    """Write all values, a file each; read them."""
    buffer = np.ones(max(map(len, values)), np.uint8).data

    def write() -> None:
        for index, value in enumerate(values):
            with open(folder / f"raw{index}", "wb", buffering=0) as file:
                file.write(value)

    def read() -> None:
        for index, value in enumerate(values):
            with open(folder / f"raw{index}", "rb", buffering=0) as file:
                file.readinto(buffer[: len(value)])

    return write, read


def raw_redis(values: list[memoryview]) -> tuple[Callable[[], None], Callable[[], None]]:
    """The same with bare SET and GET on one socket."""
    made = socket.create_connection(("127.0.0.1", PORT))
    buffer = np.ones(max(map(len, values)), np.uint8).data

    def write() -> None:
        for index, value in enumerate(values):
            made.sendall(b"*3\r\n$3\r\nSET\r\n$6\r\nraw%03d\r\n$%d\r\n" % (index, len(value)))
            made.sendall(value)
            made.sendall(b"\r\n")
            made.recv(100)

    def read() -> None:
        file = made.makefile("rb")
        for index in range(len(values)):
            made.sendall(b"*2\r\n$3\r\nGET\r\n$6\r\nraw%03d\r\n" % index)
            file.readinto(buffer[: int(file.readline()[1:])])
            file.read(2)

    return write, read


def moves(name: str, url: str, values: list[memoryview], raw: tuple[Callable[[], None], Callable[[], None]], what: str) -> list[Result]:  # fmt: skip
    """Puts and gets of whole values, one after the other, against the same without us."""
    keys, rounds = prefix_keys("bench", None, range(len(values)), 1), iter(range(10**6))
    store = open_store(url, timeout_s=30)

    def put() -> None:
        for key in prefix_keys(f"bench{next(rounds)}", None, range(len(values)), 1):  # new ones: nothing is there yet
            assert store.put(key, values[0])

    def get() -> None:
        for key in keys:
            assert store.get(key, len(values[0])) is not None

    for key, value in zip(keys, values, strict=True):
        assert store.put(key, value)
    took = race({"raw put": raw[0], "put": put, "raw get": raw[1], "get": get}, 5, 1)
    store.close()
    note = f"{len(values)} values of {len(values[0]) / 1e6:.2f} MB against {what}"
    size = sum(map(len, values))
    return [
        Result(f"{name}.put_vs_raw", took["raw put"] / took["put"], "ratio", "higher", note),
        Result(f"{name}.get_vs_raw", took["raw get"] / took["get"], "ratio", "higher", note),
        Result(f"{name}.get.bytes_per_s", size / took["get"], "B/s", "higher", note),
    ]


def prefix_load(name: str, store: Store, block: KVBlock, note: str, *, repeats: int = 5) -> list[Result]:
    """A whole prefix: fetched, decoded and handed over, each alone and together."""
    prefix, tokens, engine = PrefixStore(store, fingerprint="load", layout=LAYOUT), range(block.tokens), Engine(block)
    report = prefix.save(tokens, block, FOUR)
    assert report.ok, report.error
    keys = prefix_keys("load", None, tokens, CHUNK)
    limit = CHUNK * LAYOUT.token_bytes
    frames = [store.get(key, limit) for key in keys]
    blocks = [decode_block(frame) for frame in frames if frame is not None]
    assert len(blocks) == len(keys)

    def fetch() -> None:
        underway = [store.start_get(key, limit) for key in keys]
        assert all(pending.result() is not None for pending in underway)

    def decode() -> None:
        for key, frame in zip(keys, frames, strict=True):
            decode_block(frame, key)  # type: ignore[arg-type]

    def hand_over() -> None:
        for each in blocks:
            engine.take(each)

    def load() -> None:
        loaded = prefix.load(tokens, block.tokens, engine.take)
        assert loaded.ok, loaded.error

    took = race({"fetch": fetch, "decode": decode, "hand over": hand_over, "load": load}, repeats, 1)
    slowest = max(("fetch", "decode", "hand over"), key=took.__getitem__)
    smaller = block.raw_bytes / sum(len(frame) for frame in frames if frame is not None)
    shown = ", ".join(f"{part} {took[part] * 1e3:.0f} ms" for part in took)
    return [
        Result(f"{name}.prefix_load.overlap", took[slowest] / took["load"], "ratio", "higher", f"{note}; {shown}"),
        Result(f"{name}.prefix_load.raw_bytes_per_s", block.raw_bytes / took["load"], "B/s", "higher", f"KV as the engine holds it, {smaller:.2f}× smaller on the way"),
    ]  # fmt: skip


def lookups(name: str, store: Store) -> list[Result]:
    prefix, tokens = PrefixStore(store, fingerprint="lookup", layout=LAYOUT), list(range(LOOKUP_CHUNKS * CHUNK))
    keys = prefix_keys("lookup", None, tokens, CHUNK)
    for key in keys:
        assert store.put(key, b"x")
    assert prefix.lookup(tokens) == len(tokens)
    whole_s = time_median_s(lambda: prefix.lookup(tokens), 101)
    keys_s = time_median_s(lambda: prefix_keys("lookup", None, tokens, CHUNK), 101)
    return [Result(f"{name}.lookup_us.median", whole_s * 1e6, "us", "lower", f"{LOOKUP_CHUNKS} chunks of {CHUNK} tokens; hashing takes {keys_s * 1e6:.0f} us of it")]  # fmt: skip


def chunk_sizes(store: Store, block: KVBlock) -> list[Result]:
    """Loads of the same prefix in values of other sizes."""
    engine, tokens, loads = Engine(block), range(block.tokens), {}
    for size in (32, 64, 128, 256, 512):
        prefix = PrefixStore(store, fingerprint="sizes", layout=LAYOUT, chunk_tokens=size)
        assert prefix.save(tokens, block, FOUR).ok
        loads[str(size)] = lambda prefix=prefix: prefix.load(tokens, block.tokens, engine.take)
    took = race(loads, 5, 1)
    return [
        Result(f"file.chunk_tokens_{size}.load_vs_128", took["128"] / took[size], "ratio", "higher", f"{took[size] * 1e3:.0f} ms")
        for size in loads
        if size != "128"
    ]  # fmt: skip


def shaped(block: KVBlock) -> list[Result]:
    """Redis at the other end of links of known speed."""
    reason = available()
    if reason or not shutil.which("redis-server"):
        print(f"no figures over shaped links: {reason or 'redis-server is not installed'}")
        return []
    from pyroute2 import netns

    results = []
    with Testbed() as bed, redis_server("10.201.7.1", bed.sender) as url:
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        for rate in RATES_BYTES_PER_S:
            bed.set_rate(rate)
            enter(bed.receiver)
            assert url is not None
            store = open_store(url, timeout_s=60)
            name = f"redis_{rate * 8 / 1e6:.0f}mbit"
            results += prefix_load(name, store, block, f"server behind {format_rate(rate)}", repeats=3)
            store.close()
            netns.setns(home)
    return results


def main() -> None:
    args = parser(__doc__.splitlines()[0] if __doc__ else "").parse_args()
    torch.set_num_threads(1)
    block = make_block(CHUNKS)
    values = [encode_block(block.token_chunks(CHUNK)[0], FOUR, "x" * 64)] * CHUNKS
    results = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        url = f"file://{folder}/store"
        results += moves("file", url, values, raw_files(folder, values), "a file each, written and read")
        store = open_store(url, timeout_s=30)
        results += prefix_load("file", store, block, "a folder in the page cache")
        results += lookups("file", store)
        results += chunk_sizes(store, block)
        store.close()
    with redis_server() as served:
        if served is not None:
            results += moves("redis", served, values, raw_redis(values), "SET and GET on a bare socket")
            store = open_store(served, timeout_s=30)
            results += prefix_load("redis", store, block, "a server on this machine")
            results += lookups("redis", store)
            store.close()
    store = open_store("memory://", timeout_s=30)
    results += prefix_load("memory", store, block, "this process's memory")
    results += lookups("memory", store)
    store.close()
    results += shaped(block)
    publish("store", results, args.json)


if __name__ == "__main__":
    main()
