"""The layout table on tensors; what vLLM itself writes is compared in `test_vllm_engine.py`."""

import pytest
import torch

from tightwire.errors import LayoutError
from tightwire.kv.block import KVBlock
from tightwire.kv.engines.vllm_layout import LAYOUTS, Layout, PagedCache, layout_for, prove

HEADS, SLOTS, DIM, LAYERS, BLOCKS = 2, 32, 64, 3, 9
ALL = sorted(LAYOUTS, key=str)


def slow_slab(name: str, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """One (block, head) slab `[N·2·D]` from K and V `[N, D]`, index by index as the documented axes say."""
    slots, dim = k.shape
    slab = torch.empty(2 * slots * dim, dtype=k.dtype)
    half = slots * dim
    for t in range(slots):
        for d in range(dim):
            match name:
                case "vec" | "vec16":
                    at_k, at_v = d * slots + t, half + t * dim + d
                case "amx":
                    at_k = ((t // 16 * (dim // 2) + d // 2) * 16 + t % 16) * 2 + d % 2
                    at_v = half + ((d // 16 * (slots // 2) + t // 2) * 16 + d % 16) * 2 + t % 2
                case _:
                    at_k, at_v = t * 2 * dim + d, t * 2 * dim + dim + d
            slab[at_k], slab[at_v] = k[t, d], v[t, d]
    return slab


def caches(layers: int = LAYERS, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(BLOCKS, HEADS, SLOTS, 2 * DIM).to(dtype) for _ in range(layers)]


def block(tokens: int, start: int = 0, dtype: torch.dtype = torch.bfloat16) -> KVBlock:
    torch.manual_seed(2)
    k, v = (torch.randn(LAYERS, HEADS, tokens, DIM).to(dtype) for _ in range(2))
    return KVBlock(k, v, token_start=start)


@pytest.mark.parametrize("key", ALL, ids=str)
def test_pack_is_the_documented_order_and_unpack_its_inverse(key: tuple[str, str | None]) -> None:
    layout = LAYOUTS[key]
    torch.manual_seed(0)
    k, v = (torch.randn(1, 1, SLOTS, DIM).to(torch.bfloat16) for _ in range(2))
    memory = layout.pack(k, v)
    assert torch.equal(memory.reshape(-1), slow_slab(key[1] or "gpu", k[0, 0], v[0, 0]))
    assert all(torch.equal(a, b) for a, b in zip(layout.unpack(memory), (k, v), strict=True))


@pytest.mark.parametrize("key", ALL, ids=str)
@pytest.mark.parametrize(("start", "tokens"), [(0, 32), (0, 1), (5, 20), (31, 2), (10, 100), (64, 71), (0, 7 * 32)])
def test_what_is_written_is_read_and_the_rest_is_untouched(
    key: tuple[str, str | None], start: int, tokens: int
) -> None:
    memory, ids, part = caches(), [7, 2, 5, 0, 8, 3, 1], block(tokens, start)
    before = [cache.clone() for cache in memory]
    cache = PagedCache(memory, LAYOUTS[key])
    old = PagedCache(before, LAYOUTS[key]).read(ids, 0, len(ids) * SLOTS)
    cache.write(part, ids)
    got = cache.read(ids, start, start + tokens)
    assert torch.equal(got.k, part.k)
    assert torch.equal(got.v, part.v)
    assert got.token_start == start
    now = cache.read(ids, 0, len(ids) * SLOTS)
    for a, b in ((now.k, old.k), (now.v, old.v)):
        assert torch.equal(a[:, :, :start], b[:, :, :start])
        assert torch.equal(a[:, :, start + tokens :], b[:, :, start + tokens :])
    assert all(torch.equal(a[4], b[4]) for a, b in zip(memory, before, strict=True))  # nobody's block


def test_between_two_block_sizes_the_tokens_stay_the_same() -> None:
    small, ids, part = PagedCache(caches(), LAYOUTS["CPU_ATTN", "amx"]), [3, 1, 0], block(90)
    large = PagedCache([torch.zeros(4, HEADS, 128, 2 * DIM, dtype=torch.bfloat16) for _ in range(LAYERS)],
                       LAYOUTS["CPU_ATTN", "vec"])  # fmt: skip
    small.write(part, ids)
    large.write(small.read(ids, 0, 90), [2])
    got = large.read([2], 0, 90)
    assert torch.equal(got.k, part.k)
    assert torch.equal(got.v, part.v)


def test_fp32_and_some_layers_only() -> None:
    cache = PagedCache(caches(dtype=torch.float32), LAYOUTS["CPU_ATTN", "vec"])
    part = block(40, dtype=torch.float32)
    cache.write(KVBlock(part.k[1:], part.v[1:], layer_start=1), [0, 1])
    got = cache.read([0, 1], 0, 40)
    assert torch.equal(got.k[1:], part.k[1:])
    assert not torch.equal(got.k[0], part.k[0])
    assert cache.bytes_per_token == 2 * LAYERS * HEADS * DIM * 4


@pytest.mark.parametrize(
    ("backend", "isa"), [("CPU_ATTN", "neon"), ("CPU_ATTN", None), ("FLASHINFER", None), ("CPU_MLA", None)]
)
def test_an_unknown_layout_is_refused_by_name(backend: str, isa: str | None) -> None:
    with pytest.raises(LayoutError, match=backend):
        layout_for(backend, isa, allow_unverified=True)


def test_an_unverified_layout_must_be_asked_for() -> None:
    with pytest.raises(LayoutError, match="allow_unverified_layout"):
        layout_for("FLASH_ATTN", None)
    assert layout_for("FLASH_ATTN", None, allow_unverified=True) is LAYOUTS["FLASH_ATTN", None]
    assert layout_for("CPU_ATTN", "amx") is LAYOUTS["CPU_ATTN", "amx"]


@pytest.mark.parametrize(
    "memory",
    [
        [],
        [torch.zeros(2, 3, 16)],
        [torch.zeros(2, 1, 32, 128, dtype=torch.uint8)],
        [torch.zeros(2, 1, 32, 128), torch.zeros(2, 2, 32, 128)],
        [torch.zeros(2, 32, 1, 128).transpose(1, 2)[:, :, ::2]],
    ],
    ids=["nothing", "mla", "fp8", "mixed", "strided"],
)
def test_memory_that_does_not_fit_is_refused(memory: list[torch.Tensor]) -> None:
    with pytest.raises(LayoutError):
        PagedCache(memory, LAYOUTS["CPU_ATTN", "vec"])


def test_amx_refuses_what_its_tiles_cannot_hold() -> None:
    with pytest.raises(LayoutError, match="16-bit"):
        PagedCache([torch.zeros(2, 1, 32, 128)], LAYOUTS["CPU_ATTN", "amx"])
    with pytest.raises(LayoutError, match="block_size 24"):
        PagedCache([torch.zeros(2, 1, 24, 128, dtype=torch.bfloat16)], LAYOUTS["CPU_ATTN", "amx"])


def test_blocks_and_tokens_that_do_not_fit_are_refused() -> None:
    cache = PagedCache(caches(), LAYOUTS["CPU_ATTN", "vec"])
    with pytest.raises(LayoutError, match="do not lie"):
        cache.read([0, 1], 0, 65)
    with pytest.raises(LayoutError, match="do not lie"):
        cache.write(block(33), [0])
    with pytest.raises(LayoutError, match="does not fit"):
        cache.write(KVBlock(*(torch.zeros(4, HEADS, 8, DIM, dtype=torch.bfloat16) for _ in range(2))), [0])
    with pytest.raises(LayoutError, match="does not fit"):
        cache.write(block(8, dtype=torch.float16), [0])


class Swapped(Layout):
    """V where K belongs: what a changed engine would look like."""

    def unpack(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        k, v = LAYOUTS["CPU_ATTN", "vec"].unpack(memory)
        return v, k


def test_proving_finds_an_engine_that_stores_otherwise() -> None:
    layout, cache = LAYOUTS["CPU_ATTN", "vec"], caches()[0]

    def write(k: torch.Tensor, v: torch.Tensor, memory: torch.Tensor, slots: torch.Tensor) -> None:
        shape = (memory.shape[0], SLOTS, HEADS, DIM)
        memory.copy_(layout.pack(k[slots].view(shape).transpose(1, 2), v[slots].view(shape).transpose(1, 2)))

    prove(layout, cache, write)
    with pytest.raises(LayoutError, match="Swapped"):
        prove(Swapped(), cache, write)
    with pytest.raises(LayoutError, match="CpuAmx"):
        prove(LAYOUTS["CPU_ATTN", "amx"], cache, write)
