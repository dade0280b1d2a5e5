"""What the tests of stores share: small KV, keys, values that tell whether they are whole, and a Redis server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import pytest
import torch

from tightwire.kv.block import KVBlock
from tightwire.kv.store import Layout, PrefixStore, Store
from tightwire.net.ports import free_port

LAYOUT = Layout(3, 2, 32, torch.bfloat16)
CHUNK = 16


def make_block(tokens: int = 100, start: int = 0) -> KVBlock:
    generator = torch.Generator().manual_seed(7)
    shape = (LAYOUT.layers, LAYOUT.heads, start + tokens, LAYOUT.head_dim)
    k, v = (torch.randn(shape, generator=generator).to(LAYOUT.dtype)[:, :, start:] for _ in range(2))
    return KVBlock(k, v, token_start=start)


def prefixes(store: Store, **settings: object) -> PrefixStore:
    return PrefixStore(store, **{"fingerprint": "model", "layout": LAYOUT, "chunk_tokens": CHUNK, **settings})


def key(number: int) -> str:
    return blake2b(str(number).encode(), digest_size=16).hexdigest()


def value(name: str, size: int = 1000) -> memoryview:
    """`size` bytes that only `name` can have."""
    return memoryview((name.encode() * (size // len(name) + 1))[:size])


class Fake:
    """A backend in a dictionary that does as it is told: raise `failure`, wait for `gate`."""

    parallel = 2

    def __init__(self) -> None:
        self.values: dict[str, memoryview] = {}
        self.failure: Exception | None = None
        self.delay_s = 0.0
        self.calls = 0

    def _meet(self) -> None:
        self.calls += 1
        time.sleep(self.delay_s)
        if self.failure is not None:
            raise self.failure

    def get(self, key: str, max_bytes: int) -> memoryview | None:
        self._meet()
        return self.values.get(key)

    def put(self, key: str, value: memoryview) -> bool:
        self._meet()
        self.values[key] = value
        return True

    def contains(self, keys: Sequence[str]) -> int:
        self._meet()
        return next((index for index, key in enumerate(keys) if key not in self.values), len(keys))

    def first(self, keys: Sequence[str]) -> int:
        self._meet()
        return next((index for index, key in enumerate(keys) if key in self.values), len(keys))

    def remove(self, key: str) -> None:
        self._meet()
        self.values.pop(key, None)

    def close(self) -> None:
        return


def wait_until(condition: object, timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline_s, "it did not come to pass"
        time.sleep(0.005)


class RedisServer:
    """A real server on a free port, in memory only; `start` again on the same port after `kill`."""

    def __init__(self, *settings: str) -> None:
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            pytest.skip("neither redis-server nor valkey-server is installed (apt-get install redis-server)")
        self.port = free_port()
        self._command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *settings]  # fmt: skip
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as made:
                made.sendall(b"PING\r\n")
                return bool(made.recv(1))
        except OSError:
            return False


class Farm:
    """Writer processes on one folder, each forked in a moment from a process that has imported everything."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        command = [sys.executable, "-m", "tests.kv.store.writer", str(root), str(max_bytes)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
        )

    def start(self, seed: int) -> int:
        """The pid of a process that puts values for random keys below 64 until it is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seed}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=10)
