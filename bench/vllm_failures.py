"""Real vLLM engines while something is killed, cut or damaged at a random moment: is every answer still the right one?

| failure | what happens at a random moment of a transfer or load |
|---|---|
| `prefill` | the prefill process is killed (SIGKILL); a new one takes its place |
| `link` | the connections between prefill and decode are cut, and refused until the request is answered |
| `abort` | the prefill request is aborted |
| `store` | the Redis server that holds the prefix is killed (needs `redis-server`) |
| `damage` | bytes of stored objects are changed (in a folder) |

A run passes when the tokens are those of an engine without a connector, and afterwards no request and no block is left.

    python bench/vllm_failures.py --json FILE [--runs 20] [--only link store]
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

import harness
from harness import Result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/kv/engines"))
from vllm_host import Engine, prompt

from tightwire.net.ports import free_port
from tightwire.net.shaper import TokenBucket

COUNT, TOKENS, TIMEOUT_S = 6, 500, 5.0
RATE_BYTES_PER_S = 2e6  # of the relay: a transfer takes about half a second
FAILURES = ("prefill", "link", "abort", "store", "damage")


class Bench:
    def __init__(self, folder: Path, runs: int, seed: int) -> None:
        self.folder, self.runs, self.rng = folder, runs, random.Random(seed)
        self.console = Console()
        self.number = 0
        self.closed: list[Engine] = []
        self.hit: dict[str, int] = {}  # failures that came in the middle of a load

    def ids(self) -> list[int]:
        self.number += 1
        return prompt(10_000 + self.number, TOKENS)

    @contextlib.contextmanager
    def engine(self, name: str, **options: object) -> Iterator[Engine]:
        with Engine(self.folder / f"{name}.log", max_len=1200, **options) as engine:
            yield engine
        self.closed.append(engine)

    def transfers(self, right: Callable[[list[int]], list[int]], kinds: list[str]) -> dict[str, list[bool]]:
        """Failures of prefill, link and requests, between two engines with a relay in the middle."""
        passed: dict[str, list[bool]] = {kind: [] for kind in kinds}
        with self.engine("decode", role="kv_consumer", extra={"timeout_s": TIMEOUT_S}, block_size=128) as decode:
            host, _, port = decode.endpoint.removeprefix("tcp://").partition(":")
            relay = Relay((host, int(port)), RATE_BYTES_PER_S)
            extra = {"endpoint": f"tcp://127.0.0.1:{relay.port}", "timeout_s": TIMEOUT_S}
            for kind in kinds:
                passed[kind] = self.between(kind, decode, relay, right, extra)
                self.say(kind, passed[kind])
            relay.close()
        return passed

    def between(
        self, kind: str, decode: Engine, relay: Relay, right: Callable[[list[int]], list[int]], extra: dict[str, object]
    ) -> list[bool]:
        passed, duration_s = [], 0.0
        before = decode.stats()["loads_failed"]
        with contextlib.ExitStack() as engines:

            def start(number: int) -> Engine:
                return engines.enter_context(
                    self.engine(f"prefill-{kind}-{number}", role="kv_producer", extra=extra, block_size=32)
                )

            prefill = start(0)
            for run in range(-1, self.runs + 1):  # two undisturbed, the second tells how long one takes
                ids, name = self.ids(), f"{kind}-{run}"
                expected, params = right(ids), {"transfer_id": name}
                prefill.run(self.ids()[:100], 1)  # it is up, and its first step is over
                begin_s = time.monotonic()
                decode.add(name, ids, COUNT, params)
                prefill.add(name, ids, 1, params)
                if run > 0:
                    time.sleep(self.rng.uniform(0, duration_s))
                    if kind == "prefill":
                        prefill.process.kill()
                    elif kind == "link":
                        relay.cut()
                    else:
                        prefill.abort(name)
                tokens = decode.wait(name)["tokens"]
                if run > 0:
                    passed.append(tokens == expected and settled(decode))
                else:
                    duration_s = time.monotonic() - begin_s
                if kind == "prefill" and run > 0:
                    prefill = start(run)
                elif kind != "abort":
                    relay.restore()
                    prefill.wait(name)
        self.hit[kind] = decode.stats()["loads_failed"] - before
        return passed

    def say(self, kind: str, passed: list[bool]) -> None:
        self.console.print(f"{kind}: {sum(passed)} of {len(passed)} runs passed", highlight=False)

    @staticmethod
    def save(engine: Engine, ids: list[int]) -> None:
        """Have `ids` stored, and forgotten by the engine; a store that has failed is not asked again at once."""
        saved, end_s = engine.stats()["tokens_saved"], time.monotonic() + 20
        while engine.stats()["tokens_saved"] - saved < TOKENS // 128 * 128 and time.monotonic() < end_s:
            engine.ask(forget=True)
            engine.run(ids, 1)
            time.sleep(0.2)
        engine.ask(forget=True)

    def loads(self, right: Callable[[list[int]], list[int]], kind: str) -> list[bool]:
        """Failures of a store: a Redis server, or a folder whose objects are damaged."""
        passed = []
        store = _Redis(self.folder) if kind == "store" else _Folder(self.folder / "objects", self.rng)
        with self.engine(
            kind, role="kv_both", extra={"store": store.url, "timeout_s": TIMEOUT_S}, block_size=32
        ) as engine:
            for run in range(-1, self.runs + 1):  # two undisturbed, the second tells how much a load brings
                ids = self.ids()
                expected = right(ids)
                self.save(engine, ids)
                share = self.rng.uniform(0, 1) if run > 0 else None
                store.begin(share)
                engine.add(f"{kind}-{run}", ids, COUNT)
                if share is not None:
                    store.fail_at(share)
                tokens = engine.wait(f"{kind}-{run}")["tokens"]
                if run <= 0:
                    store.measured()
                else:
                    passed.append(tokens == expected and settled(engine))
                    store.restore()
            self.hit[kind] = engine.stats()["loads_failed"]
        store.close()
        self.say(kind, passed)
        return passed


class Relay:
    """A TCP relay to `target` with a rate, that can be cut: what is open is closed, and what comes is refused."""

    def __init__(self, target: tuple[str, int], bytes_per_s: float) -> None:
        self._target, self._bucket = target, TokenBucket(bytes_per_s)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        self._whole = True
        self.answered = 0  # bytes from the target
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole = False
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def restore(self) -> None:
        self._whole = True

    def close(self) -> None:
        self.cut()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                try:
                    peer = socket.create_connection(self._target)
                except OSError:
                    client.close()
                    continue
                if not self._whole:
                    client.close()
                    peer.close()
                    continue
                self._open += [client, peer]
                for source, sink in ((client, peer), (peer, client)):
                    threading.Thread(target=self._relay, args=(source, sink, source is peer), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(16384):
                self._bucket.take(len(piece))
                sink.sendall(piece)
                self.answered += len(piece) if answers else 0
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class _Redis:
    """A server of its own, behind a relay that makes loads last; it fails when some share of a load has passed."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self._folder = folder
        self._relay = Relay(("127.0.0.1", self._port), RATE_BYTES_PER_S)
        self.url = f"redis://127.0.0.1:{self._relay.port}/0"
        self._load_bytes = self._before = 0
        self.restore()

    def begin(self, share: float | None) -> None:
        """A load begins."""
        self._before = self._relay.answered

    def measured(self) -> None:
        """It was not disturbed: this is how much one brings."""
        self._load_bytes = self._relay.answered - self._before

    def fail_at(self, share: float) -> None:
        end_s = time.monotonic() + 20
        while self._relay.answered - self._before < share * self._load_bytes and time.monotonic() < end_s:
            time.sleep(0.001)
        self.fail()

    def fail(self) -> None:
        """As its host would go: what the kernel would still send of a killed process is lost, too."""
        self._process.kill()
        self._relay.cut()
        self._process.wait()

    def restore(self) -> None:
        self._relay.restore()
        command = [
            "redis-server",
            "--port",
            str(self._port),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            str(self._folder),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                break
            time.sleep(0.02)

    def close(self) -> None:
        self.fail()
        self._relay.close()


class _Folder:
    """Loads from a folder are over soon: damage is there when they begin, or comes at once and races with them."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self._folder, self._rng = folder, rng
        self.url = f"file://{folder}"

    def begin(self, share: float | None) -> None:
        if share is not None and share < 0.8:
            self._fail()

    def measured(self) -> None:
        """Nothing to do."""

    def fail_at(self, share: float) -> None:
        if share >= 0.8:
            self._fail()

    def _fail(self) -> None:
        for path in self._folder.rglob("*"):
            if path.is_file() and self._rng.random() < 0.5:
                with contextlib.suppress(OSError):  # removed meanwhile
                    self._damage(path)

    def _damage(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        if not data:
            return
        what = self._rng.randrange(3)
        if what == 0:
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
        elif what == 1:
            del data[self._rng.randrange(len(data)) :]
        else:
            data = bytearray(self._rng.randbytes(len(data)))
        path.write_bytes(data)

    def restore(self) -> None:
        """Nothing to do: what is damaged is removed by whoever finds it."""

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def settled(engine: Engine) -> bool:
    """Whether soon no request and no block is in use."""
    end_s = time.monotonic() + 2 * TIMEOUT_S
    while time.monotonic() < end_s:
        stats = engine.stats()
        if stats["requests"] == 0 and stats["usage"] == 0:
            return True
        time.sleep(0.05)
    return False


def main() -> None:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("--runs", type=int, default=20, help="of each failure")
    parser.add_argument("--only", nargs="*", choices=FAILURES, default=list(FAILURES))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run(args, Path(folder))
    harness.publish("vllm_failures", results, args.json)


def run(args: argparse.Namespace, folder: Path) -> list[Result]:
    bench = Bench(folder, args.runs, args.seed)
    kinds = [kind for kind in FAILURES if kind in args.only]
    if "store" in kinds and shutil.which("redis-server") is None:
        bench.console.print("store: skipped, redis-server is not installed")
        kinds.remove("store")
    passed: dict[str, list[bool]] = {}
    with bench.engine("plain", block_size=32) as plain:

        def right(ids: list[int]) -> list[int]:
            tokens: list[int] = plain.run(ids, COUNT)["tokens"]
            return tokens

        between = [kind for kind in kinds if kind in ("prefill", "link", "abort")]
        if between:
            passed |= bench.transfers(right, between)
        for kind in kinds:
            if kind not in between:
                passed[kind] = bench.loads(right, kind)
    leaked = sum(engine.alive for engine in bench.closed)
    threads = [
        thread.name for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()
    ]
    assert not threads, threads
    notes = {
        kind: f"{len(runs)} runs at random moments, {bench.hit[kind]} in the middle of a load"
        for kind, runs in passed.items()
    }
    return [
        *(
            Result(f"{kind}.right", sum(runs) / len(runs), "share", "higher", notes[kind])
            for kind, runs in passed.items()
        ),
        Result("processes_left", leaked, "processes", "lower"),
    ]


if __name__ == "__main__":
    main()
