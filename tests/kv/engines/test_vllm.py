"""Two vLLM engines alive at once, prefill and decode, each in its own process, with different block sizes."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

import tightwire
from tightwire.kv.transfer import protocol

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

ROOT = Path(tightwire.__file__).parent
MODEL = ROOT / "kv/refmodel/weights"
LOSSY = "hadamard+uniform:levels=16,axis=group,group=64+pack"
COUNT = 12


class Engine:
    """One engine process; `ask` sends a command and gives the answer."""

    def __init__(self, log: Path, **options: Any) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")]),
        }
        self.log = log
        self._stderr = log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("vllm_process.py")), json.dumps({"model": str(MODEL), **options})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True, env=environment,
        )  # fmt: skip

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@@"):
                answer: dict[str, Any] = json.loads(line[2:])
                return answer
        raise AssertionError(f"the engine ended: {self.log.read_text()[-3000:]}")

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(json.dumps(command), file=self.process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self._stderr.close()


def prompt(seed: int, count: int = 300) -> list[int]:
    return random.Random(seed).choices(range(300, 1500), k=count)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Iterator[Engine]:
    engine = Engine(folder / "plain.log", block_size=32)
    engine.answer()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def decode(folder: Path) -> Iterator[tuple[Engine, str]]:
    engine = Engine(folder / "decode.log", role="kv_consumer", extra={"timeout_s": 5}, block_size=128)
    yield engine, engine.answer()["endpoint"]
    engine.close()


def test_the_adapter_reads_what_transformers_computes(plain: Engine) -> None:
    ids = prompt(0, 200)
    plain.ask(ids=ids, count=1)
    found = plain.ask(compare=ids)
    assert found["round_trip"]
    assert found["worst"] < 0.03, found


@pytest.mark.parametrize("strategy", ["raw", LOSSY])
def test_prefill_here_decode_there(plain: Engine, decode: tuple[Engine, str], folder: Path, strategy: str) -> None:
    engine, endpoint = decode
    extra = {"endpoint": endpoint, "strategy": strategy}
    prefill = Engine(folder / "prefill.log", role="kv_producer", extra=extra, block_size=32)
    try:
        prefill.answer()
        for seed, params in ((1, {"transfer_id": f"named-{strategy}"}), (2, {"do_remote_decode": True})):
            ids = prompt(seed + 10 * len(strategy))
            before = engine.ask(ids=prompt(99), count=1)["tokens_loaded"]
            prefill.ask(ids=ids, count=1, params=params)
            answer = engine.ask(ids=ids, count=COUNT, params=params)
            assert answer["tokens_loaded"] - before == len(ids) - 1
            assert len(answer["tokens"]) == COUNT
            if strategy == "raw":
                assert answer["tokens"] == plain.ask(ids=ids, count=COUNT)["tokens"]
        assert prefill.ask(ids=prompt(98), count=1)["sends_failed"] == 0
    finally:
        prefill.close()


def test_a_transfer_that_never_comes_is_recomputed(plain: Engine, decode: tuple[Engine, str]) -> None:
    ids = prompt(3)
    answer = decode[0].ask(ids=ids, count=COUNT, params={"transfer_id": "never"})
    assert answer["loads_failed"] >= 1
    assert answer["tokens"] == plain.ask(ids=ids, count=COUNT)["tokens"]


def test_a_damaged_transfer_is_recomputed(plain: Engine, decode: tuple[Engine, str]) -> None:
    engine, endpoint = decode
    ids = prompt(4)
    before = engine.ask(ids=prompt(97), count=1)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(endpoint)
        socket.send(protocol.encode(protocol.Begin("damaged", 4, len(ids) - 1)))
        socket.send_multipart([protocol.encode(protocol.Part("damaged", 0)), b"not a frame"])
        socket.send(protocol.encode(protocol.End("damaged", 1)))
        answer = engine.ask(ids=ids, count=COUNT, params={"transfer_id": "damaged"})
    assert answer["loads_failed"] == before["loads_failed"] + 1
    assert answer["tokens_loaded"] == before["tokens_loaded"]
    assert answer["tokens"] == plain.ask(ids=ids, count=COUNT)["tokens"]
