
import numpy as np
import pytest
import torch

from tightwire.errors import LayoutError
from tightwire.kv.engines.vllm.layout import CPU_AMX, CPU_VEC, KV_LAST, Layout, select
from tightwire.kv.kernels import native

BLOCKS, HEADS, SIZE, DIM = 7, 2, 32, 64


@pytest.mark.parametrize("layout", [CPU_VEC, CPU_AMX, KV_LAST], ids=lambda layout: layout.name)
@pytest.mark.parametrize(("start", "stop"), [(0, 96), (5, 6), (31, 33), (10, 90), (64, 96)])
def test_what_is_written_is_read_and_the_rest_is_untouched(layout: Layout, start: int, stop: int) -> None:
    caches = list(torch.randn(3, BLOCKS, HEADS, SIZE, 2 * DIM).bfloat16())
    blocks, rest = [4, 1, 6], [0, 2, 3, 5]
    before = [layout.gather(cache, blocks, 0, 96) for cache in caches]
    others = [cache[rest].clone() for cache in caches]
    k, v = torch.randn(2, 3, HEADS, stop - start, DIM).bfloat16()
    layout.scatter(caches, blocks, start, k, v, layout.bits(caches))
    for layer, cache in enumerate(caches):
        after = layout.gather(cache, blocks, 0, 96)
        for old, new, written in zip(before[layer], after, (k[layer], v[layer]), strict=True):
            assert torch.equal(new[:, start:stop], written)
            assert torch.equal(new[:, :start], old[:, :start])
            assert torch.equal(new[:, stop:], old[:, stop:])
        assert torch.equal(cache[rest], others[layer])


@pytest.mark.parametrize("offset", [0, 1, 8, 11])
@pytest.mark.parametrize(("size", "dim"), [(16, 64), (32, 80), (48, 128), (12, 36)])
def test_the_kernel_places_as_the_layout_says(size: int, dim: int, offset: int) -> None:
    caches = [torch.randn(2, BLOCKS, HEADS, size, 2 * dim).bfloat16() for _ in range(2)]
    caches[1].copy_(caches[0])
    k, v = torch.randn(2, 2, HEADS, 3 * size, dim).bfloat16()[..., offset:, :]
    bits = CPU_VEC.bits(list(caches[0]))
    assert bits is not None
    CPU_VEC.scatter(list(caches[0]), [5, 0, 6, 1], size, k, v, bits)
    CPU_VEC.scatter(list(caches[1]), [5, 0, 6, 1], size, k, v)
    assert torch.equal(*caches)
    for each, more in zip(caches, (bits, None), strict=True):
        CPU_VEC.scatter(list(each), [5, 0, 6, 1], size + offset, k, v, more)  # begins in the middle of one
    assert torch.equal(*caches)


def test_the_kernel_refuses_what_does_not_fit() -> None:
    cache, rows = np.zeros((BLOCKS, HEADS, SIZE, 2 * DIM), np.uint16), np.zeros((HEADS, SIZE, DIM), np.uint16)
    for ids, k in (([BLOCKS], rows), ([-1], rows), ([1, 2], rows), ([1], rows[1:]), ([], rows)):
        with pytest.raises(ValueError, match=r"must be|of no block"):
            native.place([cache], ids, 0, k, k)
    assert not cache.any()


def test_kv_last_is_k_then_v_on_the_last_axis() -> None:
    cache = torch.randn(BLOCKS, HEADS, SIZE, 2 * DIM)
    k, v = KV_LAST.gather(cache, [3, 5], 30, 40)
    assert torch.equal(k[:, 0], cache[3, :, 30, :DIM])
    assert torch.equal(v[:, 9], cache[5, :, 7, DIM:])


def test_kv_last_writes_through_a_strided_view() -> None:
    memory = torch.zeros(BLOCKS, SIZE, HEADS, 2 * DIM)
    k, v = torch.randn(2, 1, HEADS, 40, DIM)
    KV_LAST.scatter([memory.transpose(1, 2)], [2, 0], 3, k, v)
    assert torch.equal(memory[2, 3, :, :DIM], k[0, :, 0])
    assert torch.equal(memory[0, 10, :, DIM:], v[0, :, 39])


@pytest.mark.parametrize(("backend", "isa"), [("CPU_ATTN", "neon"), ("CPU_ATTN", "vec16"), ("FLASHMLA", "")])
def test_an_unknown_layout_is_refused(backend: str, isa: str) -> None:
    with pytest.raises(LayoutError, match="not verified"):
        select(backend, isa)


def test_wrong_shapes_are_refused() -> None:
    cache = torch.zeros(BLOCKS, HEADS, SIZE, 2 * DIM)
    with pytest.raises(LayoutError, match="not in 2 blocks"):
        CPU_VEC.gather(cache, [1, 2], 60, 70)
    with pytest.raises(LayoutError, match="do not fit"):
        CPU_VEC.scatter([cache], [1], 0, torch.zeros(1, 1, 4, DIM), torch.zeros(1, 1, 4, DIM))
    with pytest.raises(LayoutError, match="quantized"):
        KV_LAST.check(cache.to(torch.float8_e4m3fn))
