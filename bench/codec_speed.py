"""Speed of the codec paths as ratios to memcpy in the same run, on the KV of the reference model.

memcpy: one thread copies the same raw bytes into a touched buffer. Speeds are counted in raw bytes; output buffers
are touched too. The block is bf16, [layers, 8 heads, 1024 tokens, 128], filled with the reference model's K, tiled.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoTokenizer

from harness import Result, parser, publish, time_median_s
from tightwire.kv import refmodel
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.engines.transformers import Engine
from tightwire.kv.kernels import native
from tightwire.kv.stages.transforms.hadamard import weights
from tightwire.kv.strategy import Strategy

NAME = "hadamard_uniform4_g64"
TEXT = "hadamard+uniform:levels=16,axis=group,group=64+pack"


def reference_kv(layers: int) -> KVBlock:
    """[layers, 8, 1024, 128] bf16: the reference model's KV of held-out prose, heads joined in pairs, tiled."""
    tokenizer = AutoTokenizer.from_pretrained(refmodel.path())
    ids = tokenizer(refmodel.heldout())["input_ids"][:1024]
    kv = Engine(refmodel.path()).prefill(ids)

    def tile(x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([x[:, 0], x[:, 1]], dim=-1)[:, None]  # [L, 1, T, 128]
        repeat = -(-layers // joined.shape[0])
        return joined.expand(-1, 8, -1, -1).repeat(repeat, 1, 1, 1)[:layers].contiguous()

    return KVBlock(tile(kv.k), tile(kv.v))


def main() -> None:
    arguments_parser = parser(__doc__ or "")
    arguments_parser.add_argument("--layers", type=int, default=32)
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)
    block, strategy = reference_kv(arguments.layers), Strategy.parse(TEXT)
    rows = block.k.view(torch.int16).numpy().view(np.uint16).reshape(-1, 128)
    copy = np.ones_like(rows)
    rotation = weights(0, 128)
    done = native.encode(rows, rotation, 64, 16, 4)
    assert done is not None
    lo, step, packed = done
    memcpy_s = time_median_s(lambda: np.copyto(copy, rows))
    encode_s = time_median_s(lambda: native.encode_into(rows, rotation, 16, 4, lo, step, packed))
    decode_s = time_median_s(lambda: native.decode_into(lo, step, packed, rotation, 16, 4, copy))
    memcpy_again_s = time_median_s(lambda: np.copyto(copy, rows))
    few = KVBlock(block.k[:1], block.v[:1])
    few_copy_s = memcpy_s * few.raw_bytes / rows.nbytes
    frame = encode_block(few, strategy)
    twin_encode_s = time_median_s(lambda: encode_block(few, strategy, native_kernels=False), 3, 1)
    twin_decode_s = time_median_s(lambda: decode_block(frame, native_kernels=False), 3, 1)
    frame_encode_s = time_median_s(lambda: encode_block(few, strategy))
    frame_decode_s = time_median_s(lambda: decode_block(frame))
    base = (memcpy_s + memcpy_again_s) / 2
    shape = f"bf16 {list(block.k.shape)}, {native.ISA}, one core"
    publish(
        "codec_speed",
        [
            Result("memcpy.bytes_per_s", rows.nbytes / base, "B/s", "higher", "the reference of this run"),
            Result(f"{NAME}.encode_vs_memcpy", base / encode_s, "ratio", "higher", f"native kernel, {shape}"),
            Result(f"{NAME}.decode_vs_memcpy", base / decode_s, "ratio", "higher", f"native kernel, {shape}"),
            Result(f"{NAME}.python_encode_vs_memcpy", few_copy_s / twin_encode_s, "ratio", "higher", "numpy twin, one layer, whole frame"),
            Result(f"{NAME}.python_decode_vs_memcpy", few_copy_s / twin_decode_s, "ratio", "higher", "numpy twin, one layer, whole frame"),
            Result(f"{NAME}.frame_encode_vs_memcpy", few_copy_s / frame_encode_s, "ratio", "higher", "native, one layer, with frame, checksum and allocation"),
            Result(f"{NAME}.frame_decode_vs_memcpy", few_copy_s / frame_decode_s, "ratio", "higher", "native, one layer, with checks and allocation"),
            Result(f"{NAME}.ratio", few.raw_bytes / len(frame), "ratio", "higher", "raw bytes / frame bytes"),
        ],
        arguments.json,
    )  # fmt: skip


if __name__ == "__main__":
    main()
