"""vLLM's paged KV memory ↔ K and V as `[L, H, T, D]`: one table of layouts, and nothing is ever guessed.

Per layer vLLM holds `[B, H, N, 2·D]`: B blocks of N token slots for H kv heads (legend of the rest in `kv.block`).
What the last two axes of a (block, head) slab mean depends on the attention kernels:

| backend | attention ISA | K of a slab | V of a slab | checked |
|---|---|---|---|---|
| CPU_ATTN | vec, vec16 | first half, `[D, N]` (transposed) | second half, `[N, D]` | against transformers, and at start-up |
| CPU_ATTN | amx | first half, `[N/16, D/2, 16, 2]` | second half, `[D/16, N/2, 16, 2]` | the same |
| FLASH_ATTN, TRITON_ATTN | - | `[..., :D]` | `[..., D:]` | on tensors only; refused unless allowed |

In the amx layout (VNNI pairs) K's axes are token group, dim pair, token in group, dim in pair; V's are dim group,
token pair, dim in group, token in pair. Other ISAs (neon, rvv, vsx, vxe), other backends and fp8 caches are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tightwire.errors import LayoutError
from tightwire.kv.block import DTYPE_NAMES, KVBlock

Pair = tuple[torch.Tensor, torch.Tensor]
Writer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
_GROUP = 16  # tokens (K) or dims (V) side by side in one AMX tile


class Layout:
    """Whole blocks, both ways: `unpack` gives K and V, each `[n, H, N, D]`, of memory `[n, H, N, 2·D]`; `pack` is its
    inverse. `verified`: compared with what an engine really wrote."""

    verified = True

    def check(self, cache: torch.Tensor) -> None:
        """Raises LayoutError when this layout cannot hold for `cache` `[B, H, N, 2·D]`."""

    def unpack(self, memory: torch.Tensor) -> Pair:
        raise NotImplementedError

    def pack(self, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Interleaved(Layout):
    """Each token's K, then its V, on the last axis."""

    verified = False

    def unpack(self, memory: torch.Tensor) -> Pair:
        k, v = memory.chunk(2, dim=-1)
        return k, v

    def pack(self, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.cat((k, v), dim=-1)


class CpuVector(Layout):
    """K transposed, then V, in each slab."""

    def check(self, cache: torch.Tensor) -> None:
        _require_whole_slabs(cache)

    def unpack(self, memory: torch.Tensor) -> Pair:
        k, v = _halves(memory)
        n, heads, slots, dim = _shape(memory)
        return k.reshape(n, heads, dim, slots).transpose(2, 3), v.reshape(n, heads, slots, dim)

    def pack(self, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return _join(k.transpose(2, 3), v, k.shape)


class CpuAmx(Layout):
    """Pairs of 16-bit values as AMX tiles take them: of neighbouring dims in K, of neighbouring tokens in V."""

    def check(self, cache: torch.Tensor) -> None:
        _require_whole_slabs(cache)
        _, _, slots, dim = _shape(cache)
        if cache.dtype.itemsize != 2 or slots % _GROUP or dim % _GROUP:
            raise LayoutError(
                f"the amx layout holds 16-bit values in groups of {_GROUP} tokens and dims, "
                f"not {cache.dtype} with block_size {slots} and head_dim {dim}"
            )

    def unpack(self, memory: torch.Tensor) -> Pair:
        k, v = _halves(memory)
        n, heads, slots, dim = _shape(memory)
        tiles_k = k.reshape(n, heads, slots // _GROUP, dim // 2, _GROUP, 2)
        tiles_v = v.reshape(n, heads, dim // _GROUP, slots // 2, _GROUP, 2)
        return (
            tiles_k.permute(0, 1, 2, 4, 3, 5).reshape(n, heads, slots, dim),
            tiles_v.permute(0, 1, 3, 5, 2, 4).reshape(n, heads, slots, dim),
        )

    def pack(self, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        n, heads, slots, dim = k.shape
        tiles_k = k.reshape(n, heads, slots // _GROUP, _GROUP, dim // 2, 2).permute(0, 1, 2, 4, 3, 5)
        tiles_v = v.reshape(n, heads, slots // 2, 2, dim // _GROUP, _GROUP).permute(0, 1, 4, 2, 5, 3)
        return _join(tiles_k, tiles_v, k.shape)


LAYOUTS: dict[tuple[str, str | None], Layout] = {
    ("CPU_ATTN", "vec"): CpuVector(),
    ("CPU_ATTN", "vec16"): CpuVector(),
    ("CPU_ATTN", "amx"): CpuAmx(),
    ("FLASH_ATTN", None): Interleaved(),
    ("TRITON_ATTN", None): Interleaved(),
}


def layout_for(backend: str, isa: str | None, *, allow_unverified: bool = False) -> Layout:
    """The layout of an attention `backend` and, on CPUs, the attention ISA that it chose. Raises LayoutError for what
    is not in the table, and for what was never compared with a running engine unless `allow_unverified`."""
    layout = LAYOUTS.get((backend, isa))
    name = f"attention backend {backend}" + (f" with ISA {isa}" if isa else "")
    if layout is None:
        known = ", ".join(f"{b}/{i}" if i else b for b, i in LAYOUTS)
        raise LayoutError(f"the KV layout of {name} is not known; known: {known}")
    if not layout.verified and not allow_unverified:
        raise LayoutError(
            f"the KV layout of {name} is written from vLLM's source and was never compared with a running engine; "
            "set allow_unverified_layout to true to use it, and compare the output with one without a connector"
        )
    return layout


def prove(layout: Layout, cache: torch.Tensor, write: Writer) -> None:
    """Let the engine's own `write(k, v, memory, slots)` (K and V `[T, H, D]`) store random tokens in fresh memory of
    the shape of `cache`, and read them back through `layout`. Raises LayoutError when they are not the same."""
    _, heads, slots, dim = _shape(cache)
    blocks = 2
    memory = torch.zeros((blocks, *cache.shape[1:]), dtype=cache.dtype)
    generator = torch.Generator().manual_seed(0)
    k, v = (torch.randn(blocks * slots, heads, dim, generator=generator).to(cache.dtype) for _ in range(2))
    write(k, v, memory, torch.arange(blocks * slots))
    wanted = [x.view(blocks, slots, heads, dim).transpose(1, 2) for x in (k, v)]
    if not all(torch.equal(got, want) for got, want in zip(layout.unpack(memory), wanted, strict=True)):
        raise LayoutError(
            f"{type(layout).__name__} is not how this build of the engine stores {cache.dtype}, block_size {slots}, "
            f"head_dim {dim}; nothing is transferred rather than something wrong"
        )
    if not torch.equal(layout.pack(*wanted), memory):
        raise LayoutError(f"{type(layout).__name__} does not write what it reads")


class PagedCache:
    """The KV memory of one worker: L tensors `[B, H, N, 2·D]` of one shape and dtype, first layer first.

    Token position t of a request stands in slot t % N of its block `block_ids[t // N]`. Raises LayoutError for
    memory that does not fit the layout."""

    def __init__(self, layers: Sequence[torch.Tensor], layout: Layout) -> None:
        if not layers:
            raise LayoutError("the engine registered no KV memory")
        first = layers[0]
        for index, cache in enumerate(layers):
            if cache.ndim != 4 or cache.shape[3] % 2 or cache.dtype not in DTYPE_NAMES:
                raise LayoutError(
                    f"layer {index} is {tuple(cache.shape)} {cache.dtype}; known is [blocks, heads, block_size, "
                    f"2·head_dim] in {', '.join(DTYPE_NAMES.values())} (no MLA, no fp8)"
                )
            if cache.shape[1:] != first.shape[1:] or cache.dtype != first.dtype:
                raise LayoutError(f"layer {index} is {tuple(cache.shape)} {cache.dtype}, layer 0 {tuple(first.shape)}")
            layout.check(cache)
        self._layers, self._layout = list(layers), layout
        self.layers = len(layers)
        _, self.heads, self.block_size, self.head_dim = _shape(first)
        self.dtype, self.device = first.dtype, first.device

    @property
    def bytes_per_token(self) -> int:
        """Of K and V, all layers."""
        return 2 * self.layers * self.heads * self.head_dim * self.dtype.itemsize

    def read(self, block_ids: Sequence[int], start: int, stop: int) -> KVBlock:
        """A copy, on the CPU, of the token positions start … stop - 1, all layers."""
        first, last = self._blocks(block_ids, start, stop)
        ids = torch.tensor(block_ids[first:last], dtype=torch.long, device=self.device)
        low, high = start - first * self.block_size, stop - first * self.block_size
        k, v = (torch.empty(self.layers, self.heads, stop - start, self.head_dim, dtype=self.dtype) for _ in range(2))
        for index, cache in enumerate(self._layers):
            for out, side in zip((k, v), self._layout.unpack(cache.index_select(0, ids)), strict=True):
                tokens = side.transpose(0, 1).reshape(self.heads, -1, self.head_dim)
                out[index] = tokens[:, low:high]
        return KVBlock(k, v, token_start=start)

    def write(self, block: KVBlock, block_ids: Sequence[int]) -> None:
        """Store `block` at its token positions; slots beside them keep what they hold. Raises LayoutError when it is
        not this model's shape."""
        self._fits(block)
        size = self.block_size
        start, stop = block.token_start, block.token_start + block.tokens
        first, last = self._blocks(block_ids, start, stop)
        head = min(-(-start // size) * size, stop)  # up to the first block border, then whole blocks, then the tail
        tail = max(stop // size * size, head)
        for offset in range(block.layers):
            cache = self._layers[block.layer_start + offset]
            k, v = (x[offset].to(self.device) for x in (block.k, block.v))
            for low, high in ((start, head), (tail, stop)):
                if low < high:
                    self._write_part(cache, block_ids[low // size], low % size, k[:, low - start : high - start],
                                     v[:, low - start : high - start])  # fmt: skip
            if head < tail:
                ids = torch.tensor(block_ids[head // size : tail // size], dtype=torch.long, device=self.device)
                whole = (
                    x[:, head - start : tail - start].reshape(self.heads, -1, size, self.head_dim).transpose(0, 1)
                    for x in (k, v)
                )
                cache.index_copy_(0, ids, self._layout.pack(*whole))
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _write_part(self, cache: torch.Tensor, block_id: int, slot: int, k: torch.Tensor, v: torch.Tensor) -> None:
        ids = torch.tensor([block_id], dtype=torch.long, device=self.device)
        held_k, held_v = (side.clone() for side in self._layout.unpack(cache.index_select(0, ids)))
        held_k[0, :, slot : slot + k.shape[1]] = k
        held_v[0, :, slot : slot + v.shape[1]] = v
        cache.index_copy_(0, ids, self._layout.pack(held_k, held_v))

    def _blocks(self, block_ids: Sequence[int], start: int, stop: int) -> tuple[int, int]:
        first, last = start // self.block_size, -(-stop // self.block_size)
        if not 0 <= start < stop or last > len(block_ids):
            raise LayoutError(
                f"tokens {start} to {stop} do not lie in {len(block_ids)} blocks of {self.block_size} tokens"
            )
        return first, last

    def _fits(self, block: KVBlock) -> None:
        shape, wanted = (block.heads, block.head_dim, block.k.dtype), (self.heads, self.head_dim, self.dtype)
        if shape != wanted or block.layer_start + block.layers > self.layers:
            raise LayoutError(
                f"a block of layers {block.layer_start} to {block.layer_start + block.layers}, [heads, head_dim, "
                f"dtype] = {list(shape)} does not fit {self.layers} layers of {list(wanted)}"
            )


def _shape(memory: torch.Tensor) -> tuple[int, int, int, int]:
    blocks, heads, slots, both = memory.shape
    return blocks, heads, slots, both // 2


def _halves(memory: torch.Tensor) -> Pair:
    n, heads, slots, dim = _shape(memory)
    slab = memory.reshape(n, heads, 2, slots * dim)
    return slab[:, :, 0], slab[:, :, 1]


def _join(k: torch.Tensor, v: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    n, heads, slots, dim = shape
    halves = [x.reshape(n, heads, 1, slots * dim) for x in (k, v)]
    return torch.cat(halves, dim=2).view(n, heads, slots, 2 * dim)


def _require_whole_slabs(cache: torch.Tensor) -> None:
    if cache.stride(3) != 1 or cache.stride(2) != cache.shape[3]:
        raise LayoutError(f"a (block, head) slab is not one piece of memory: strides {cache.stride()}")
