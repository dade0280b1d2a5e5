"""Prefixes through a store: what comes back is what was saved, or it is missing; never anything else."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kv.store.helpers import CHUNK, LAYOUT, Fake, RedisServer, make_block, prefixes
from tightwire.errors import ConfigError
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import encode_block
from tightwire.kv.store import Layout, PrefixStore, Store, open_store
from tightwire.kv.store.load import covered_s
from tightwire.kv.store.memory import Memory
from tightwire.kv.strategy import RAW, Strategy

TOKENS = list(range(500, 600))  # 6 whole chunks of 16 and 4 tokens
WHOLE = 96
FOUR = Strategy.parse("hadamard+uniform:levels=16+pack")


@pytest.fixture(params=["file", "redis", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    server = RedisServer() if request.param == "redis" else None
    url = {"file": f"file://{tmp_path}/store", "memory": "memory://"}.get(request.param)
    made = open_store(url or server.url, timeout_s=10)
    yield made
    made.close()
    if server is not None:
        server.kill()


@pytest.fixture
def fake() -> Fake:
    return Fake()


def joined(blocks: list[KVBlock]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([block.k for block in blocks], dim=2), torch.cat([block.v for block in blocks], dim=2)


def test_saved_found_and_loaded_bit_for_bit(store: Store) -> None:
    prefix, block, got = prefixes(store), make_block(), []
    assert prefix.lookup(TOKENS) == 0
    report = prefix.save(TOKENS, block, RAW)
    assert (report.saved, report.present, report.refused, report.error) == (6, 0, 0, None)
    assert report.raw_bytes == WHOLE * LAYOUT.token_bytes
    assert report.wire_bytes > report.raw_bytes
    assert prefix.lookup(TOKENS) == WHOLE
    assert prefix.lookup(TOKENS[:40]) == 32
    assert prefix.lookup([*TOKENS[:40], 1, *TOKENS[41:]]) == 32
    assert prefix.lookup([1, *TOKENS[1:]]) == 0
    loaded = prefix.load(TOKENS, WHOLE, got.append)
    assert loaded.ok
    assert (loaded.tokens, loaded.missing, loaded.wire_bytes) == (WHOLE, [], report.wire_bytes)
    assert loaded.decode_s > 0
    assert loaded.wire_s > 0
    assert [(part.layer_start, part.token_start, part.tokens) for part in got] == [(0, at, CHUNK) for at in range(0, 96, CHUNK)]  # fmt: skip
    k, v = joined(got)
    assert torch.equal(k, block.k[:, :, :WHOLE])
    assert torch.equal(v, block.v[:, :, :WHOLE])
    again = prefix.save(TOKENS, block, FOUR)
    assert (again.saved, again.present, again.raw_bytes, again.error) == (0, 6, 0, None)


def test_lossy_is_close_and_smaller(store: Store) -> None:
    prefix, block, got = prefixes(store), make_block(), []
    report = prefix.save(TOKENS, block, FOUR)
    assert report.raw_bytes > 2.5 * report.wire_bytes
    assert prefix.load(TOKENS, 32, got.append).tokens == 32
    assert (joined(got)[0] - block.k[:, :, :32]).abs().max() < 1


def test_a_prefix_grows_block_by_block(store: Store) -> None:
    prefix, block = prefixes(store), make_block()
    parts = [make_block(40), make_block(35, start=40), make_block(25, start=75)]
    reports = [prefix.save(TOKENS, part, RAW) for part in parts]
    # Tokens 32-47 and 64-79 are in no block as a whole: whoever saves keeps blocks at the boundaries of chunks.
    assert [report.saved for report in reports] == [3, 2, 1]  # with tails of 8 tokens
    assert prefix.lookup(TOKENS) == 40
    assert prefix.save(TOKENS, block, RAW).saved == 4
    assert prefix.lookup(TOKENS) == WHOLE


def test_fewer_tokens_than_the_block_save_what_they_cover(store: Store) -> None:
    assert prefixes(store).save(TOKENS[:40], make_block(), RAW).saved == 3


def test_nothing_is_found_under_another_name(store: Store) -> None:
    prefixes(store).save(TOKENS, make_block(), RAW, salt="adapter 1")
    prefixes(store, strategy_class="lossless").save(TOKENS[:32], make_block(), RAW)
    assert prefixes(store).lookup(TOKENS) == 0
    assert prefixes(store).lookup(TOKENS, salt="adapter 1") == WHOLE
    assert prefixes(store, fingerprint="other").lookup(TOKENS, salt="adapter 1") == 0
    assert prefixes(store, strategy_class="lossless").lookup(TOKENS) == 32
    assert prefixes(store, strategy_class="any").lookup(TOKENS) == 0
    assert prefixes(store, chunk_tokens=8).lookup(TOKENS) == 0


def test_asking_for_more_than_whole_chunks_leaves_the_rest_missing(store: Store) -> None:
    prefix = prefixes(store)
    prefix.save(TOKENS, make_block(), RAW)
    loaded = prefix.load(TOKENS, 100, lambda block: None)
    assert (loaded.tokens, loaded.missing, loaded.error) == (WHOLE, [(WHOLE, 100)], None)
    assert prefix.load(TOKENS, 0, lambda block: None).missing == []


def test_the_tail_of_a_prompt_is_found_where_the_prompt_goes_on(store: Store) -> None:
    prefix, block, got = prefixes(store, chunk_tokens=64), make_block(), []
    report = prefix.save(TOKENS, block, RAW)
    assert (report.saved, report.tokens) == (2, WHOLE)  # 64 and 32; 4 are less than a step of a tail
    assert prefix.lookup(TOKENS) == WHOLE
    assert prefix.lookup([*TOKENS, *range(200)]) == WHOLE  # the next turn of a conversation
    assert prefix.lookup([*TOKENS[:95], 1]) == 64  # another text in the tail
    assert prefix.lookup(TOKENS[:80]) == 64  # inside the tail: no frame of its own
    loaded = prefix.load([*TOKENS, *range(200)], WHOLE, got.append)
    assert (loaded.tokens, loaded.missing, loaded.error) == (WHOLE, [], None)
    assert [(part.token_start, part.tokens) for part in got] == [(0, 64), (64, 32)]
    assert torch.equal(joined(got)[0], block.k[:, :, :WHOLE])
    assert prefix.save(TOKENS[:84], block, RAW).tokens == 16  # a shorter one that ends in this chunk has its own
    assert prefix.lookup([*TOKENS[:84], 1]) == 80
    assert prefix.lookup(TOKENS) == WHOLE


def test_a_prompt_shorter_than_a_chunk_is_all_tail(store: Store) -> None:
    prefix = prefixes(store, chunk_tokens=128)
    assert prefix.save(TOKENS, make_block(), FOUR).tokens == WHOLE
    assert prefix.lookup(TOKENS) == WHOLE
    assert prefix.load(TOKENS, WHOLE, lambda block: None).tokens == WHOLE


def test_the_tail_of_another_place_is_refused(fake: Fake) -> None:
    prefix = prefixes(Store(fake, timeout_s=10), chunk_tokens=64)
    prefix.save(TOKENS, make_block(), RAW)
    first, tail = prefix._chunks(TOKENS, "")
    fake.values[tail] = fake.values[first]
    assert prefix.load(TOKENS, WHOLE, lambda block: None).tokens == 64


def saved(fake: Fake) -> tuple[PrefixStore, list[str]]:
    prefix = prefixes(Store(fake, timeout_s=10))
    assert prefix.save(TOKENS, make_block(), FOUR).saved == 6
    return prefix, prefix._keys(TOKENS, "")


def load(prefix: PrefixStore) -> tuple[list[KVBlock], str]:
    got: list[KVBlock] = []
    loaded = prefix.load(TOKENS, WHOLE, got.append)
    assert loaded.tokens == len(got) * CHUNK
    assert loaded.missing == ([(loaded.tokens, WHOLE)] if loaded.tokens < WHOLE else [])
    assert all(torch.isfinite(part.k.float()).all() for part in got)
    return got, loaded.error or ""


DAMAGE = {
    "truncated": lambda value, other: value[: len(value) // 2],
    "empty": lambda value, other: b"",
    "longer": lambda value, other: bytes(value) + b"x",
    "one bit": lambda value, other: bytes([*value[:-1], value[-1] ^ 1]),
    "no frame": lambda value, other: b"hello",
    "zeros": lambda value, other: bytes(len(value)),
    "another chunk's": lambda value, other: other,
    "another model's": lambda value, other: encode_block(make_block(CHUNK, 48), FOUR, "model"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_wrong_value_is_a_miss_is_removed_and_can_be_saved_again(fake: Fake, damage: str) -> None:
    prefix, keys = saved(fake)
    fake.values[keys[3]] = memoryview(DAMAGE[damage](fake.values[keys[3]], fake.values[keys[2]]))
    got, error = load(prefix)
    assert len(got) == 3
    assert error.startswith("value 3: ")
    deadline_s = time.monotonic() + 5
    while keys[3] in fake.values and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert keys[3] not in fake.values
    assert prefix.lookup(TOKENS) == 48
    assert prefix.save(TOKENS, make_block(), FOUR).error is None
    assert len(load(prefix)[0]) == 6


def test_a_frame_with_the_right_key_of_another_shape_is_refused(fake: Fake) -> None:
    prefix, keys = saved(fake)
    for k in (torch.zeros(3, 2, CHUNK, 16), torch.zeros(3, 2, CHUNK, 32), torch.zeros(2, 2, CHUNK, 32), torch.zeros(3, 2, 8, 32)):  # fmt: skip
        k = k.to(torch.float32 if k.shape[0] == 2 else torch.bfloat16)
        for block in (KVBlock(k, k, token_start=0), KVBlock(k, k, layer_start=1), KVBlock(k, k, token_start=16)):
            if (*k.shape, block.layer_start, block.token_start) != (3, 2, CHUNK, 32, 0, 0):
                fake.values[keys[0]] = encode_block(block, RAW, keys[0])
                got, error = load(prefix)
                assert got == []
                assert "value 0: " in error


def test_a_strategy_that_is_unknown_here_is_a_miss_but_stays(fake: Fake) -> None:
    prefix, keys = saved(fake)
    frame = bytes(fake.values[keys[0]])
    from tightwire.kv import frame as wire

    parsed = wire.parse(frame)
    header = type(parsed.header)(**{field: getattr(parsed.header, field) for field in parsed.header.__struct_fields__} | {"strategy": "martian+pack"})  # fmt: skip
    fake.values[keys[0]] = wire.build(header, [parsed.payload])
    got, error = load(prefix)
    assert got == []
    assert "strategy" in error
    assert keys[0] in fake.values


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 5), st.integers(0, 10_000), st.integers(1, 255), st.booleans())
def test_no_flipped_byte_and_no_cut_comes_through(index: int, place: int, flip: int, cut: bool) -> None:
    fake = Fake()
    prefix, keys = saved(fake)
    value = bytearray(fake.values[keys[index]])
    place %= len(value)
    if cut:
        del value[place:]
    else:
        value[place] ^= flip
    fake.values[keys[index]] = memoryview(bytes(value))
    assert len(load(prefix)[0]) == index


def test_a_store_that_fails_in_the_middle_leaves_the_rest_missing(fake: Fake) -> None:
    prefix, _ = saved(fake)
    got: list[KVBlock] = []

    def take(block: KVBlock) -> None:
        got.append(block)
        fake.failure = OSError("gone")
        time.sleep(0.05)

    fake.delay_s = 0.01
    loaded = prefix.load(TOKENS, WHOLE, take)
    assert 1 <= len(got) < 6
    assert loaded.missing == [(len(got) * CHUNK, WHOLE)]
    assert "gone" in (loaded.error or "")
    assert prefix.save([9] * 100, make_block(), RAW).refused == 6
    assert prefix.lookup(TOKENS) == 0


def test_a_load_ends_in_time(fake: Fake) -> None:
    prefix, _ = saved(fake)
    fake.delay_s = 0.3
    start_s = time.monotonic()
    loaded = prefix.load(TOKENS, WHOLE, lambda block: None, timeout_s=0.4)
    assert time.monotonic() - start_s < 0.6
    assert loaded.tokens < WHOLE
    assert "timeout" in (loaded.error or "")


def test_what_the_taker_raises_ends_the_load_and_its_threads(fake: Fake) -> None:
    prefix, _ = saved(fake)

    def refuse(block: KVBlock) -> None:
        raise RuntimeError("no room")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="no room"):
            prefix.load(TOKENS, WHOLE, refuse)
    deadline_s = time.monotonic() + 5
    while any(thread.name == "tightwire-store-decode" for thread in threading.enumerate()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_many_at_once(store: Store) -> None:
    prefix, block = prefixes(store), make_block()
    wrong: list[object] = []

    def work(number: int) -> None:
        tokens = [number, *TOKENS[1:]]
        for _ in range(3):
            got: list[KVBlock] = []
            prefix.save(tokens, block, RAW)
            if not prefix.load(tokens, WHOLE, got.append).ok or not torch.equal(joined(got)[0], block.k[:, :, :WHOLE]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number % 3,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_store_without_room_says_so() -> None:
    prefix = prefixes(Store(Memory(LAYOUT.token_bytes * CHUNK // 2), timeout_s=5))
    report = prefix.save(TOKENS, make_block(), RAW)
    assert (report.saved, report.refused, report.error) == (0, 6, "the store has no room")
    assert report.raw_bytes == 0


def test_wrong_use_is_the_callers_fault(fake: Fake) -> None:
    prefix = prefixes(Store(fake, timeout_s=5))
    with pytest.raises(ConfigError, match="stored are"):
        prefix.save(TOKENS, KVBlock(torch.zeros(3, 2, 32, 16), torch.zeros(3, 2, 32, 16)), RAW)
    with pytest.raises(ConfigError, match="from layer 1 on"):
        prefix.save(TOKENS, KVBlock(make_block().k, make_block().v, layer_start=1), RAW)
    with pytest.raises(ConfigError, match="chunk_tokens=0"):
        prefixes(Store(fake, timeout_s=5), chunk_tokens=0)
    with pytest.raises(ConfigError, match="dtype"):
        Layout(1, 1, 1, torch.int8)


def test_the_union_of_spans() -> None:
    assert covered_s([]) == 0
    assert covered_s([(5, 6), (0, 2), (1, 3), (1, 1.5)]) == 4
