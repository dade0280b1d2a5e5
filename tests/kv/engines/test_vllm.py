"""Real vLLM engines, each in its own process: prefill (blocks of 32 tokens), decode (blocks of 128, few of them), one
that shares prefixes through a folder, and one without a connector, whose tokens are the right ones."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm_host import Engine, prompt

from tightwire.kv.block import KVBlock
from tightwire.kv.engines.vllm.planner import transfer_name
from tightwire.kv.strategy import RAW
from tightwire.kv.transfer.sender import Sender
from tightwire.net.ports import free_port

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

LOSSY = "hadamard+uniform:levels=16,axis=group,group=64+pack"
COUNT = 12
TIMEOUT_S = 4.0


@dataclass
class Engines:
    plain: Engine
    prefill: Engine
    decode: Engine
    shared: Engine
    store: Path

    def both(self, ids: list[int], count: int = COUNT, **params: Any) -> dict[str, Any]:
        """The answer of decode, which was asked first, while prefill sends."""
        name = params["transfer_id"]
        self.decode.add(name, ids, count, params)
        self.prefill.run(ids, 1, params)
        return self.decode.wait(name)

    def right(self, ids: list[int], count: int = COUNT) -> list[int]:
        tokens: list[int] = self.plain.run(ids, count)["tokens"]
        return tokens


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    folder = tmp_path_factory.mktemp("vllm")
    store = folder / "store"
    with contextlib.ExitStack() as stack:

        def engine(name: str, **options: Any) -> Engine:
            return stack.enter_context(Engine(folder / f"{name}.log", **options))

        endpoint = f"tcp://127.0.0.1:{free_port()}"  # known before decode is up, so that all start at once
        plain = engine("plain", block_size=32)
        prefill = engine("prefill", role="kv_producer", extra={"endpoint": endpoint}, block_size=32, quiet=False)
        extra = {"bind": endpoint, "timeout_s": TIMEOUT_S}
        decode = engine("decode", role="kv_consumer", extra=extra, block_size=128, blocks=12)
        shared = engine("shared", role="kv_both", extra={"store": f"file://{store}"}, block_size=32, blocks=40)
        for started in (prefill, decode, shared):
            started.run(prompt(99, 100), 2)  # the first steps take long
        yield Engines(plain, prefill, decode, shared, store)


def test_the_adapter_reads_what_transformers_computes(engines: Engines) -> None:
    """The first request of its engine: it has the first blocks."""
    ids = prompt(0, 200)
    engines.plain.run(ids, 1)
    found = engines.plain.ask(compare=ids)
    assert found["round_trip"]
    assert found["worst"] < 0.03, found


def test_several_in_flight_give_the_tokens_that_one_engine_gives(engines: Engines) -> None:
    """Lengths around the blocks of both sides and around the pieces that are sent; chunked prefill throughout."""
    prompts = [prompt(10 + i, size) for i, size in enumerate((2, 31, 33, 127, 128, 129, 130, 257, 300, 700))]
    before = engines.decode.stats()
    for i, ids in enumerate(prompts):
        engines.decode.add(f"many-{i}", ids, COUNT, {"transfer_id": f"many-{i}"})
    for i, ids in enumerate(prompts):
        engines.prefill.add(f"many-{i}", ids, 1, {"transfer_id": f"many-{i}"})
    for i, ids in enumerate(prompts):
        assert engines.decode.wait(f"many-{i}")["tokens"] == engines.right(ids), len(ids)
        engines.prefill.wait(f"many-{i}")
    after = engines.decode.stats()
    assert after["tokens_loaded"] - before["tokens_loaded"] == sum(len(ids) - 1 for ids in prompts)
    assert after["loads_failed"] == before["loads_failed"]
    assert engines.prefill.stats()["sends_failed"] == 0
    assert after["usage"] == 0


@pytest.mark.parametrize("params", [{}, {"stream": False}, {"strategy": LOSSY}])
def test_prefill_first_then_decode(engines: Engines, params: dict[str, Any]) -> None:
    ids = prompt(hash(str(params)) % 1000)
    before = engines.decode.stats()["tokens_loaded"]
    engines.prefill.run(ids, 1, params)
    answer = engines.decode.run(ids, COUNT, params)
    assert engines.decode.stats()["tokens_loaded"] - before == len(ids) - 1
    if "strategy" not in params:
        assert answer["tokens"] == engines.right(ids)
    else:
        assert len(answer["tokens"]) == COUNT
        assert engines.prefill.stats()["last_strategy"] == "hadamard+uniform+pack"


def test_prefix_caches_on_both_sides(engines: Engines) -> None:
    """Decode loads what its own cache lacks; prefill sends also what it did not have to compute."""
    start = prompt(20, 256)
    first, second = start + prompt(21, 80), start + prompt(22, 90)
    assert engines.both(first, transfer_id="cached-1")["tokens"] == engines.right(first)
    before, sent = engines.decode.stats()["tokens_loaded"], engines.prefill.stats()["tokens_sent"]
    assert engines.both(second, transfer_id="cached-2")["tokens"] == engines.right(second)
    assert engines.decode.stats()["tokens_loaded"] - before == len(second) - 1 - 256
    assert engines.prefill.stats()["tokens_sent"] - sent == len(second) - 1


def test_preempted_requests_are_not_loaded_again(engines: Engines) -> None:
    prompts = [prompt(30 + i, 350) for i in range(4)]  # 3 of the 11 blocks each, growing to 4
    before = engines.decode.stats()
    for i, ids in enumerate(prompts):
        engines.prefill.run(ids, 1, {"transfer_id": f"tight-{i}"})
        engines.decode.add(f"tight-{i}", ids, 120, {"transfer_id": f"tight-{i}"})
    for i, ids in enumerate(prompts):
        assert engines.decode.wait(f"tight-{i}")["tokens"] == engines.right(ids, 120)
    after = engines.decode.stats()
    assert after["preemptions"] > before["preemptions"]
    assert after["loads"] - before["loads"] == len(prompts)
    assert after["loads_failed"] == before["loads_failed"]


def test_an_abort_while_waiting_frees_the_blocks_at_once(engines: Engines) -> None:
    engines.decode.add("unwanted", prompt(40), COUNT, {"transfer_id": "unwanted"})
    start_s = time.monotonic()
    while engines.decode.stats()["usage"] == 0:
        assert time.monotonic() - start_s < TIMEOUT_S
    engines.decode.abort("unwanted")
    while engines.decode.stats()["requests"]:
        assert time.monotonic() - start_s < TIMEOUT_S, "it waited for the time limit"
    assert engines.decode.stats()["usage"] == 0


def test_an_abort_in_the_middle_of_prefill_is_recomputed(engines: Engines) -> None:
    for i in range(4):
        ids, params = prompt(50 + i, 900), {"transfer_id": f"aborted-{i}"}
        engines.decode.add(f"aborted-{i}", ids, COUNT, params)
        engines.prefill.add(f"aborted-{i}", ids, 1, params)
        time.sleep(0.03 * i)
        engines.prefill.abort(f"aborted-{i}")
        assert engines.decode.wait(f"aborted-{i}")["tokens"] == engines.right(ids)
    assert engines.prefill.stats()["requests"] == 0


def test_a_transfer_that_never_comes_is_recomputed(engines: Engines) -> None:
    ids = prompt(60)
    before = engines.decode.stats()["loads_failed"]
    assert engines.decode.run(ids, COUNT, {"transfer_id": "never"})["tokens"] == engines.right(ids)
    assert engines.decode.stats()["loads_failed"] == before + 1


@pytest.mark.parametrize("wrong", ["layers", "model"])
def test_what_is_not_wholly_there_or_of_another_model_is_recomputed(engines: Engines, wrong: str) -> None:
    ids, params = prompt(61, 300 + len(wrong)), {"transfer_id": wrong}
    fingerprint = engines.decode.stats()["fingerprint"] if wrong == "layers" else "another"
    sender = Sender(engines.decode.endpoint, fingerprint=fingerprint)
    before = engines.decode.stats()
    engines.decode.add(wrong, ids, COUNT, params)
    garbage = torch.full((2 if wrong == "layers" else 4, 2, len(ids) - 1, 64), 3.0, dtype=torch.bfloat16)
    outgoing = sender.start(
        transfer_name(params, ids), RAW, layers=4, tokens=len(ids) - 1, timeout_s=TIMEOUT_S
    )  # fmt: skip
    outgoing.put(KVBlock(garbage, garbage))
    assert not outgoing.finish(TIMEOUT_S).ok
    assert engines.decode.wait(wrong)["tokens"] == engines.right(ids)
    after = engines.decode.stats()
    assert after["loads_failed"] == before["loads_failed"] + 1
    assert after["tokens_loaded"] == before["tokens_loaded"]
    sender.close()


def test_prefixes_are_shared_through_a_folder(engines: Engines) -> None:
    start = prompt(70, 512)
    first, second = start + prompt(71, 70), start + prompt(72, 50)
    assert engines.shared.run(first, COUNT)["tokens"] == engines.right(first)
    wait_for(engines, lambda stats: stats["tokens_saved"] == 576)  # whole chunks, and a tail of 64
    engines.shared.ask(forget=True)
    assert engines.shared.run(second, COUNT)["tokens"] == engines.right(second)
    assert engines.shared.stats()["tokens_loaded"] == 512
    assert engines.shared.run(start, COUNT)["tokens"] == engines.right(start)  # vLLM's own cache has most of it
    wait_for(engines, lambda stats: stats["tokens_saved"] == 576 + 48)  # the tail of `second`
    engines.shared.ask(forget=True)
    before = engines.shared.stats()["tokens_loaded"]
    turn = first + prompt(76, 30)  # the next turn of a conversation finds all of `first`, but for 6 tokens
    assert engines.shared.run(turn, COUNT)["tokens"] == engines.right(turn)
    assert engines.shared.stats()["tokens_loaded"] - before == 576
    assert engines.shared.stats()["loads_failed"] == 0


def test_a_damaged_store_is_a_miss(engines: Engines) -> None:
    ids = prompt(73, 700)
    saved = engines.shared.stats()["tokens_saved"]
    engines.shared.run(ids, 1)
    wait_for(engines, lambda stats: stats["tokens_saved"] == saved + 640 + 56)
    files = [path for path in engines.store.rglob("*") if path.is_file() and path.stat().st_size > 2**14]
    assert len(files) >= 5
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    engines.shared.ask(forget=True)
    assert engines.shared.run(ids, COUNT)["tokens"] == engines.right(ids)
    assert engines.shared.stats()["loads_failed"] == 1
    assert engines.shared.stats()["usage"] == 0


def test_vllm_exposes_the_counts(engines: Engines) -> None:
    engines.both(prompt(74), transfer_id="counted")
    engines.prefill.run(prompt(75, 40), 2)  # a step after the report
    stats, metrics = engines.prefill.stats(), engines.prefill.ask(metrics=True)
    for name in ("tokens_sent", "wire_bytes", "encode_seconds", "sends_failed"):
        assert metrics[f"tightwire_kv_{name}_total"] == pytest.approx(stats[name])
    assert stats["tokens_sent"] >= 299


def test_prefill_killed_in_the_middle_is_recomputed(engines: Engines) -> None:
    """The last test that uses prefill."""
    ids, params = prompt(80, 1000), {"transfer_id": "killed"}
    engines.decode.add("killed", ids, COUNT, params)
    engines.prefill.add("killed", ids, 1, params)
    threading.Timer(0.1, engines.prefill.process.kill).start()
    assert engines.decode.wait("killed")["tokens"] == engines.right(ids)
    assert engines.decode.stats()["usage"] == 0


def wait_for(engines: Engines, condition: Any) -> None:
    end_s = time.monotonic() + 10
    while not condition(engines.shared.stats()):
        assert time.monotonic() < end_s, engines.shared.stats()
        time.sleep(0.02)
