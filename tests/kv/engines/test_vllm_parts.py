"""The worker's half without vLLM: copies, pushes and loads over small caches and a real link."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tightwire.core.links import LinkVerdict
from tightwire.errors import ConfigError, LinkError
from tightwire.kv.block import KVBlock
from tightwire.kv.control.log import read as read_log
from tightwire.kv.engines.vllm.auto import Auto
from tightwire.kv.engines.vllm.counters import COUNTS
from tightwire.kv.engines.vllm.layout import CPU_VEC, KV_LAST, Layout
from tightwire.kv.engines.vllm.plan import Move, Options, Plan, Push, Shelved
from tightwire.kv.engines.vllm.settings import Settings
from tightwire.kv.engines.vllm.worker import Worker
from tightwire.kv.profiles import Profile, ProfileLibrary
from tightwire.kv.store import Layout as Stored
from tightwire.kv.store import PrefixStore, open_store
from tightwire.kv.strategy import Strategy
from tightwire.net.estimator import LinkEstimate
from tightwire.net.keys import Keys

LAYERS, HEADS, DIM = 3, 2, 32
TOKENS = 300
LOSSY = "hadamard+uniform:levels=16,axis=group,group=32+pack"
Caches = dict[str, torch.Tensor]


def caches(block: int, blocks: int = 24) -> Caches:
    return {f"layer.{i}": torch.randn(blocks, HEADS, block, 2 * DIM).bfloat16() for i in range(LAYERS)}


def read(layout: Layout, memory: Caches, ids: list[int], start: int, stop: int) -> torch.Tensor:
    return torch.stack([torch.stack(layout.gather(cache, ids, start, stop)) for cache in memory.values()])


def wait(condition: Callable[[], Any]) -> Any:
    end_s = time.monotonic() + 10
    while not (found := condition()):
        assert time.monotonic() < end_s
        time.sleep(0.005)
    return found


class Pair:
    """Two workers with caches of their own: blocks of 16 tokens here, of 64 there."""

    def __init__(self, timeout_s: float = 5.0, **settings: Any) -> None:
        self.decode = Worker(Settings("kv_consumer", timeout_s=timeout_s), "model")
        endpoint = self.decode.endpoint
        self.prefill = Worker(Settings("kv_producer", endpoint=endpoint, timeout_s=timeout_s, **settings), "model")
        self.here, self.there = caches(16), caches(64)
        self.prefill.register(KV_LAST, self.here)
        self.decode.register(CPU_VEC, self.there)
        self.here_ids, self.there_ids = list(range(20, 1, -1)), [7, 3, 9, 1, 8]

    def push(self, start: int, stop: int, total: int = TOKENS - 1, silent: int | None = None, **options: Any) -> None:
        """A step of the prefill engine; layer `silent` does not speak."""
        piece = Push("p", "t", tuple(self.here_ids), start, stop, total, 0, Options(**options))
        self.prefill.begin(Plan(pushes=[piece], scheduled=stop - start))
        for number, name in enumerate(self.here):
            if number != silent:
                self.prefill.computed(name)
        self.prefill.end()

    def pull(self, start: int = 0) -> None:
        self.decode.begin(Plan(pulls=[Move("d", "t", tuple(self.there_ids), start, TOKENS - 1)]))
        self.decode.load()
        self.decode.end()

    def same(self, start: int, stop: int) -> bool:
        return torch.equal(
            read(KV_LAST, self.here, self.here_ids, start, stop), read(CPU_VEC, self.there, self.there_ids, start, stop)
        )

    def close(self) -> None:
        self.prefill.close()
        self.decode.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


@pytest.mark.parametrize("silent", [None, 0, 1, 2])
def test_pieces_arrive_where_they_belong_and_nothing_else_is_written(pair: Pair, silent: int | None) -> None:
    before = {name: cache.clone() for name, cache in pair.there.items()}
    pair.pull(start=64)
    for start, stop in ((0, 128), (128, 256), (256, TOKENS - 1)):
        pair.push(start, stop, silent=silent)
    assert wait(pair.decode.take_finished) == {"d"}
    assert pair.decode.take_bad_blocks() == set()
    assert pair.same(64, TOKENS - 1)
    others = [i for i in range(24) if i not in pair.there_ids[1:]]
    for name, cache in pair.there.items():
        assert torch.equal(cache[others], before[name][others])
    assert torch.equal(
        read(CPU_VEC, pair.there, pair.there_ids, TOKENS - 1, 320),
        read(CPU_VEC, before, pair.there_ids, TOKENS - 1, 320),
    )


def test_a_step_ends_when_its_copies_are_made(pair: Pair) -> None:
    """What the engine writes afterwards is not sent."""
    kept = {name: cache.clone() for name, cache in pair.here.items()}
    for start, stop in ((0, 128), (128, 256), (256, TOKENS - 1)):
        for name in pair.here:
            pair.here[name].copy_(kept[name])
        pair.push(start, stop)
        for cache in pair.here.values():
            cache.fill_(float("nan"))
    for name in pair.here:
        pair.here[name].copy_(kept[name])
    pair.pull()
    assert wait(pair.decode.take_finished) == {"d"}
    assert pair.same(0, TOKENS - 1)


def test_what_is_given_up_in_the_middle_is_reported_from_the_first_gap_on(pair: Pair) -> None:
    pair.pull()
    pair.push(0, 128)
    wait(lambda: pair.same(0, 128))
    pair.prefill.begin(Plan(cancels=["p"]))
    pair.prefill.end()
    assert wait(pair.decode.take_finished) == {"d"}
    assert pair.decode.take_bad_blocks() == set(pair.there_ids[2:])
    assert pair.decode.stats()["tokens_loaded"] == 128
    wait(lambda: pair.prefill.stats()["sends_failed"] == 1)
    pair.push(128, TOKENS - 1)  # a later step of a transfer that is over: nothing happens
    assert pair.prefill.stats()["sends"] == 0


def test_a_load_that_is_given_up_is_announced_at_once() -> None:
    pair = Pair(timeout_s=60.0)
    pair.pull()
    pair.decode.begin(Plan(cancels=["d"]))
    pair.decode.end()

    def step() -> set[str]:  # the engine goes on while blocks are held
        pair.decode.begin(Plan())
        pair.decode.load()
        pair.decode.end()
        return pair.decode.take_finished()

    assert wait(step) == {"d"}
    assert pair.decode.take_bad_blocks() == set(pair.there_ids)
    pair.close()


def test_a_time_limit_ends_a_load() -> None:
    pair = Pair(timeout_s=0.2)
    pair.pull(start=128)
    assert wait(pair.decode.take_finished) == {"d"}
    assert pair.decode.take_bad_blocks() == set(pair.there_ids[2:])
    pair.close()


def test_memory_that_waits_for_the_link_is_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tightwire.kv.engines.vllm.push._MAX_STAGED_BYTES", 1000)
    pair.push(0, TOKENS - 1)
    wait(lambda: pair.prefill.stats()["sends_failed"] == 1)


def test_the_strategy_of_a_request_and_one_that_does_not_exist(pair: Pair) -> None:
    for strategy, expected in (("quarot-4", "hadamard"), ("nonsense", "raw"), ("auto", "raw")):
        pair.push(0, TOKENS - 1, strategy=strategy)
        pair.pull()
        assert wait(pair.decode.take_finished) == {"d"}
        assert expected in str(pair.prefill.stats()["last_strategy"])
        wait(lambda: "p" not in pair.prefill._pusher._transfers)  # type: ignore[union-attr]


def test_auto_decides_learns_and_writes_it_down(tmp_path: Path) -> None:
    profiles = [Profile("raw", 1.0, 1e10, 1e10, 1.0), Profile(LOSSY, 3.5, 1e10, 1e10, 0.99, (0.01, 0.02))]
    library = ProfileLibrary("m", profiles, {})
    library.save(tmp_path / "library.json")
    pair = Pair(strategy="auto", library=str(tmp_path / "library.json"), decisions=str(tmp_path / "log"))
    for options in ({}, {"quality_budget": 0.999, "slo_s": 2.0, "workload": "chat"}, {"strategy": LOSSY}, {}):
        sends = pair.prefill.stats()["sends"]
        for start, stop in ((0, 128), (128, TOKENS - 1)):
            pair.push(start, stop, **options)
        pair.pull()
        assert wait(pair.decode.take_finished) == {"d"}
        wait(lambda sends=sends: pair.prefill.stats()["sends"] == sends + 1)
        wait(lambda: "p" not in pair.prefill._pusher._transfers)  # type: ignore[union-attr]
    pair.close()
    records = wait(lambda: len(found := read_log(tmp_path / "log")) == 3 and found)  # not of the one that was asked for
    assert all(record.outcome and not record.outcome.failed for record in records)
    request = records[1].decision.request
    assert (request.quality_budget, request.slo_s, request.workload) == (0.999, 2.0, "chat")
    assert records[1].decision.chosen == "raw"  # nothing else keeps that budget
    assert records[2].decision.request.prefill_s > 0  # learnt from the steps before
    assert records[0].decision.link_bytes_per_s is not None  # it was probed


def test_auto_decides_again_when_the_link_changes_under_a_transfer(tmp_path: Path) -> None:
    profiles = [Profile("raw", 1.0, 1e10, 1e10, 1.0), Profile(LOSSY, 3.5, 1e8, 1e8, 0.99, (0.01, 0.02))]
    ProfileLibrary("m", profiles, {}).save(tmp_path / "library.json")
    pair = Pair(strategy="auto", library=str(tmp_path / "library.json"), decisions=str(tmp_path / "log"))
    estimator = next(iter(pair.prefill._pusher._peers.values())).sender.link  # type: ignore[union-attr]
    rates = iter([1e11] * 3)  # before the transfer, and for its first piece
    estimator.estimate = lambda: LinkEstimate(next(rates, 1e5), 1e-4, 3)  # type: ignore[method-assign]
    for start, stop in ((0, 128), (128, TOKENS - 1)):
        pair.push(start, stop)
    pair.pull()
    assert wait(pair.decode.take_finished) == {"d"}
    wait(lambda: pair.prefill.stats()["sends"] == 1)
    wait(lambda: "p" not in pair.prefill._pusher._transfers)  # type: ignore[union-attr]
    pair.close()
    revised, first = wait(lambda: len(found := read_log(tmp_path / "log")) == 2 and found)
    assert (first.decision.chosen, first.decision.revises) == ("raw", None)
    assert (revised.decision.chosen, revised.decision.revises, revised.outcome) == (LOSSY, "raw", None)
    assert first.outcome is not None
    assert [share.strategy for share in first.outcome.shares] == ["raw", LOSSY]
    assert sum(share.raw_bytes for share in first.outcome.shares) == first.decision.request.raw_bytes
    assert first.outcome.wire_bytes < first.decision.request.raw_bytes


def test_auto_goes_by_verdicts_about_its_link(tmp_path: Path) -> None:
    profiles = [Profile("raw", 1.0, 1e10, 1e10, 1.0), Profile(LOSSY, 3.5, 1e8, 1e8, 0.99, (0.01, 0.02))]
    ProfileLibrary("m", profiles, {}).save(tmp_path / "library.json")
    pair = Pair(strategy="auto", library=str(tmp_path / "library.json"), decisions=str(tmp_path / "log"))
    auto = next(iter(pair.prefill._pusher._peers.values())).chooser  # type: ignore[union-attr]
    assert isinstance(auto, Auto)
    push = Push("p", "t", (0,), 0, TOKENS, TOKENS, 0, Options())
    for verdict, chosen in (
        (LinkVerdict("a-b", "healthy"), "raw"),
        (LinkVerdict("a-b", "slow", "counters", 1e5), LOSSY),
        (LinkVerdict("a-b", "healthy"), "raw"),
    ):
        auto.link_verdict(verdict)
        assert auto.choose(push, 10**7, 8) == Strategy.parse(chosen)
        auto.learn(push, None)
    auto.link_verdict(LinkVerdict("a-b", "hung", "no acknowledgements"))
    with pytest.raises(LinkError, match="no acknowledgements"):
        auto.choose(push, 10**7, 8)
    pair.close()
    assert [record.decision.send for record in read_log(tmp_path / "log")] == [True, True, True, False]


def test_endpoints_that_a_request_may_choose_from(pair: Pair) -> None:
    other = Worker(Settings("kv_consumer", timeout_s=0.3), "model")
    other.register(CPU_VEC, caches(64))
    both = Worker(Settings("kv_producer", endpoint=f"{other.endpoint}, {pair.decode.endpoint}"), "model")
    both.register(KV_LAST, pair.here)
    pair.prefill.close()
    pair.prefill = both
    pair.push(0, TOKENS - 1, endpoint=pair.decode.endpoint)
    pair.pull()
    assert wait(pair.decode.take_finished) == {"d"}
    assert pair.same(0, TOKENS - 1)
    other.close()


def test_keys_are_asked_for_and_used(tmp_path: Path) -> None:
    for name in ("here", "there"):
        Keys.generate().save(tmp_path / name)
    (tmp_path / "authorized").write_bytes((tmp_path / "here/public.key").read_bytes())
    there = Settings(
        "kv_consumer", timeout_s=5.0, keys=str(tmp_path / "there"), authorized=str(tmp_path / "authorized")
    )
    decode = Worker(there, "model")
    pair = Pair(keys=str(tmp_path / "here"), peer=str(tmp_path / "there"))
    pair.decode.close()
    pair.decode = decode
    decode.register(CPU_VEC, pair.there)
    pair.prefill.close()
    pair.prefill = Worker(
        Settings("kv_producer", endpoint=decode.endpoint, keys=str(tmp_path / "here"), peer=str(tmp_path / "there")),
        "model",
    )
    pair.prefill.register(KV_LAST, pair.here)
    pair.push(0, TOKENS - 1)
    pair.pull()
    assert wait(pair.decode.take_finished) == {"d"}
    assert pair.same(0, TOKENS - 1)
    pair.close()
    for settings in (
        Settings("kv_consumer", bind="tcp://0.0.0.0:*"), Settings("kv_consumer", keys="x"),
        Settings("kv_producer", endpoint="tcp://127.0.0.1:1", peer="x"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="keys"):
            Worker(settings, "model").register(KV_LAST, pair.here)


def test_prefixes_are_saved_and_fetched() -> None:
    layout = Stored(LAYERS, HEADS, DIM, torch.bfloat16)
    store = PrefixStore(open_store("memory://"), fingerprint="m", layout=layout, chunk_tokens=128)
    worker = Worker(Settings("kv_both", store="memory://"), "m", store)
    memory = caches(16)
    worker.register(KV_LAST, memory)
    ids, other, tokens = tuple(range(16)), [20, 19, 18, 17, *range(12)], tuple(range(256))
    worker.begin(Plan(saves=[Shelved("a", "", ids, 0, 128, tokens[:128]), Shelved("a", "", ids, 128, 256, tokens)]))
    worker.end()
    expected = read(KV_LAST, memory, list(ids), 0, 60)
    wait(lambda: worker.stats()["tokens_saved"] == 256)
    worker.begin(Plan(fetches=[Shelved("b", "", tuple(other), 0, 60, tokens)]))
    worker.load()
    worker.end()
    assert wait(worker.take_finished) == {"b"}
    assert worker.take_bad_blocks() == set()
    assert torch.equal(read(KV_LAST, memory, other, 0, 60), expected)
    worker.begin(Plan(fetches=[Shelved("c", "", tuple(other), 16, 60, tuple(range(1, 257)))]))
    worker.load()
    worker.end()
    assert wait(worker.take_finished) == {"c"}
    assert worker.take_bad_blocks() == set(other[1:4])
    worker.close()


def test_counts_add_up(pair: Pair) -> None:
    pair.push(0, TOKENS - 1)
    pair.pull()
    wait(pair.decode.take_finished)
    wait(lambda: pair.prefill.stats()["sends"] == 1)
    first, again = pair.prefill.counters.take(), pair.prefill.counters.take()
    assert first["tokens_sent"] == TOKENS - 1
    assert first["raw_bytes"] == (TOKENS - 1) * LAYERS * HEADS * DIM * 4
    assert first["wire_bytes"] > first["raw_bytes"]
    assert again == {}
    assert set(pair.prefill.stats()) == {*COUNTS, "last_strategy"}


def test_a_block_of_another_model_is_not_written(pair: Pair) -> None:
    def source(on_block: Callable[[KVBlock], None]) -> None:
        k = torch.zeros(LAYERS + 1, HEADS, TOKENS, DIM, dtype=torch.bfloat16)
        on_block(KVBlock(k, k))

    before = {name: cache.clone() for name, cache in pair.there.items()}
    pair.decode._loads.run(Move("x", "t", tuple(pair.there_ids), 0, TOKENS), source)
    assert pair.decode.take_finished() == {"x"}
    assert pair.decode.take_bad_blocks() == set(pair.there_ids)
    assert all(torch.equal(cache, before[name]) for name, cache in pair.there.items())


def test_closing_leaves_no_threads() -> None:
    before = set(threading.enumerate())
    pair = Pair()
    pair.pull()
    pair.push(0, 128)
    pair.close()
    wait(lambda: not {t for t in threading.enumerate() if t not in before and t.name.startswith("tightwire")})
