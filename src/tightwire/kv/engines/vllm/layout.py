"""Where K and V lie in a vLLM layer's cache `[num_blocks, H, N, 2·D]` (N: tokens in a block).

| layout | K in a (block, head) slab | V in it |
|---|---|---|
| `cpu-vec` | first half, `[D, N]` | second half, `[N, D]` |
| `cpu-amx` | first half, `[N/16, D/2, 16 tokens, 2]` | second half, `[D/16, N/2, 16 channels, 2]` |
| `kv-last` | `[N, 2·D]`, the first D of the last axis | the last D of it |

The shape is the same in all three, so a wrong choice would not fail, it would corrupt: `select` refuses what is not
in its table. Nothing here imports vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tightwire.errors import LayoutError
from tightwire.kv.block import U16
from tightwire.kv.kernels import native

_Split = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
_Join = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


@dataclass(frozen=True)
class Layout:
    """`split`: contiguous cache blocks `[B, H, N, 2·D]` to K and V, each `[B, H, N, D]`; `join`: from K and V, each
    `[…, H, N, D]`, to contiguous cache blocks `[…, H, N, 2·D]`, its third argument; `place`: a
    kernel that writes bf16 straight to contiguous caches of the host."""

    name: str
    split: _Split
    join: _Join
    place: Callable[[Sequence[U16], Sequence[int], int, U16, U16], None] | None = None
    tokens_multiple: int = 1
    dim_multiple: int = 1

    def check(self, cache: torch.Tensor) -> None:
        """Raises LayoutError when `cache` cannot be of this layout."""
        if cache.ndim != 4 or cache.shape[3] % 2:
            raise LayoutError(
                f"cache of shape {tuple(cache.shape)} is not [num_blocks, kv_heads, block_size, 2*head_size]"
            )
        tokens, dim = cache.shape[2], cache.shape[3] // 2
        if tokens % self.tokens_multiple or dim % self.dim_multiple:
            raise LayoutError(
                f"layout {self.name} needs block_size % {self.tokens_multiple} == 0 and head_size % "
                f"{self.dim_multiple} == 0; got {tokens} and {dim}"
            )
        if not cache.is_floating_point() or cache.element_size() < 2:
            raise LayoutError(f"a cache of {cache.dtype} is quantized by the engine; use bfloat16, float16 or float32")

    def gather(
        self, cache: torch.Tensor, block_ids: Sequence[int], start: int, stop: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of K and V, each `[H, stop-start, D]`, of the request whose token t lies in `block_ids[t // N]`."""
        first, ids = _touched(cache, block_ids, start, stop)
        k, v = self.split(cache[ids].contiguous())
        offset = start - first * cache.shape[2]
        return tuple(_tokens_first(x)[0, :, offset : offset + stop - start].contiguous() for x in (k, v))  # type: ignore[return-value]

    def bits(self, caches: Sequence[torch.Tensor]) -> list[U16] | None:
        """The caches' memory as the kernel takes it; None where there is none for them."""
        if self.place is None or not all(map(_plain, caches)):
            return None
        return [each.view(torch.uint16).numpy() for each in caches]

    def scatter(
        self, caches: Sequence[torch.Tensor], block_ids: Sequence[int], start: int, k: torch.Tensor, v: torch.Tensor,
        bits: Sequence[U16] | None = None,
    ) -> None:  # fmt: skip
        """Write K and V, each `[L, H, T, D]`, to the tokens from `start` on, each layer to its cache; all other tokens
        keep their values. With the `bits` of the caches the kernel does it."""
        cache, stop = caches[0], start + k.shape[2]
        heads, block_tokens, dim = cache.shape[1], cache.shape[2], cache.shape[3] // 2
        expected = (len(caches), heads, stop - start, dim)
        if k.shape != expected or v.shape != expected or k.dtype != cache.dtype or v.dtype != cache.dtype:
            raise LayoutError(
                f"K {tuple(k.shape)} {k.dtype} and V {tuple(v.shape)} {v.dtype} do not fit "
                f"[layers, kv_heads, tokens, head_size] = {expected} {cache.dtype}"
            )
        first, ids = _touched(cache, block_ids, start, stop)
        offset = start - first * block_tokens
        if bits is not None and self.place is not None:
            self.place(bits, ids, offset, native.segments(k), native.segments(v))
            return
        whole = [k.to(cache.device), v.to(cache.device)]
        if offset or stop % block_tokens:  # other tokens share the first block or the last
            sides = self.split(torch.cat([each[ids] for each in caches]))
            whole = [_tokens_first(side, len(caches)).contiguous() for side in sides]
            for target, source in zip(whole, (k, v), strict=True):
                target[:, :, offset : offset + stop - start] = source.to(cache.device)
        k, v = (x.reshape(len(caches), heads, len(ids), block_tokens, dim).transpose(1, 2) for x in whole)
        joined = torch.empty(len(caches), len(ids), *cache.shape[1:], dtype=cache.dtype, device=cache.device)
        self.join(k, v, joined)
        for each, part in zip(caches, joined, strict=True):
            each[ids] = part


def _plain(cache: torch.Tensor) -> bool:
    return cache.dtype is torch.bfloat16 and cache.device.type == "cpu" and cache.is_contiguous()


def _touched(cache: torch.Tensor, block_ids: Sequence[int], start: int, stop: int) -> tuple[int, list[int]]:
    """Index of the first block that holds a token of [start, stop), and the ids of all that do."""
    tokens = cache.shape[2]
    if not 0 <= start < stop <= len(block_ids) * tokens:
        raise LayoutError(f"tokens {start}-{stop} are not in {len(block_ids)} blocks of {tokens}")
    first = start // tokens
    ids = list(block_ids[first : -(-stop // tokens)])
    if min(ids) < 0 or max(ids) >= cache.shape[0]:
        raise LayoutError(f"block ids {ids} are not in 0-{cache.shape[0] - 1}")
    return first, ids


def _tokens_first(x: torch.Tensor, layers: int = 1) -> torch.Tensor:
    """`[L·B, H, N, D]` to `[L, H, B·N, D]`."""
    _, heads, tokens, dim = x.shape
    return x.reshape(layers, -1, heads, tokens, dim).transpose(1, 2).reshape(layers, heads, -1, dim)


def _halves(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return blocks.view(*blocks.shape[:-2], 2, -1).unbind(-2)  # type: ignore[return-value]


def _split_vec(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    b, h, n, dd = blocks.shape
    k, v = _halves(blocks)
    return k.reshape(b, h, dd // 2, n).transpose(2, 3), v.reshape(b, h, n, dd // 2)


def _join_vec(k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
    first, second = _halves(out)
    first.view(k.mT.shape).copy_(k.mT)
    second.view(v.shape).copy_(v)


def _split_amx(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    b, h, n, dd = blocks.shape
    d = dd // 2
    k, v = _halves(blocks)
    k = k.reshape(b, h, n // 16, d // 2, 16, 2).transpose(3, 4).reshape(b, h, n, d)
    v = v.reshape(b, h, d // 16, n // 2, 16, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, h, n, d)
    return k, v


def _join_amx(k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
    n, d = k.shape[-2:]
    first, second = _halves(out)
    packed_k = k.reshape(*k.shape[:-2], n // 16, 16, d // 2, 2).transpose(-3, -2)
    packed_v = v.reshape(*v.shape[:-2], n // 2, 2, d // 16, 16).movedim((-2, -1), (-4, -2))
    first.view(packed_k.shape).copy_(packed_k)
    second.view(packed_v.shape).copy_(packed_v)


def _split_last(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    k, v = blocks.chunk(2, dim=3)
    return k, v


def _join_last(k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
    dim = k.shape[-1]
    out[..., :dim] = k
    out[..., dim:] = v


CPU_VEC = Layout("cpu-vec", _split_vec, _join_vec, native.place)
CPU_AMX = Layout("cpu-amx", _split_amx, _join_amx, tokens_multiple=32, dim_multiple=32)
KV_LAST = Layout("kv-last", _split_last, _join_last)

# (attention backend, instruction set or "")
KNOWN: dict[tuple[str, str], Layout] = {
    ("CPU_ATTN", "vec"): CPU_VEC,
    ("CPU_ATTN", "amx"): CPU_AMX,
    ("FLASH_ATTN", ""): KV_LAST,
    ("TRITON_ATTN", ""): KV_LAST,
}


def select(backend: str, isa: str = "") -> Layout:
    """The layout that vLLM's attention `backend` writes with the instruction set `isa` (CPU only).
    Raises LayoutError for any pair that is not in `KNOWN`."""
    if (backend, isa) not in KNOWN:
        known = ", ".join(f"{name}/{what}" if what else name for name, what in KNOWN)
        asked = f"{backend}/{isa}" if isa else backend
        raise LayoutError(f"the KV layout of attention backend {asked} is not verified; known are {known}")
    return KNOWN[backend, isa]
