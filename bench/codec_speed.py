"""Speed and size of the codec's hot paths, as ratios within one run.

memcpy: one thread copies the same raw bytes into a touched buffer. Speeds are counted in raw bytes. The tensor is bf16,
[layers, 8 heads, 1024 tokens, 128], filled with the reference model's K, its heads joined in pairs and tiled. Kernels
write into touched buffers, as an engine's are; whole frames (header, checksum, allocation) have figures of their own.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import zstandard

sys.path.insert(0, str(Path(__file__).parent))

from harness import Result, parser, publish, race
from peers import cachegen
from tightwire.kv import refmodel
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.engines.transformers import Engine
from tightwire.kv.kernels import native
from tightwire.kv.presets import presets
from tightwire.kv.stages.base import Place
from tightwire.kv.stages.codecs import rans
from tightwire.kv.stages.codecs.pack import packed_bytes
from tightwire.kv.stages.lossless.exponent import split
from tightwire.kv.stages.quantizers.mixed import Mixed, some_tokens
from tightwire.kv.stages.transforms.hadamard import weights
from tightwire.kv.strategy import Strategy, enumerate_chains

Call = Callable[[], object]
TOKENS = 1024


def reference_kv(layers: int) -> tuple[KVBlock, KVBlock]:
    """Two blocks `[layers, 8, 1024, 128]` bf16 of held-out prose: one to measure, one (of 4 layers) to calibrate on.

    Every tile is the KV of another stretch of the text: a codec that looks for repetitions must not find any."""
    engine = Engine(refmodel.path())
    text = refmodel.heldout()
    pieces = [text[start : start + 20000] for start in range(0, len(text), 20000)]
    ids = [token for piece in pieces for token in engine.tokenizer(piece)["input_ids"]]
    starts = np.linspace(0, len(ids) - TOKENS, 8 * (layers // engine.layers + 1), dtype=int)
    tiles = []
    for start in starts:
        kv = engine.prefill(ids[start : start + TOKENS])
        tiles.append([torch.cat([x[:, 0], x[:, 1]], dim=-1) for x in (kv.k, kv.v)])  # [L, T, 128]
    columns = [[torch.cat([tile[side] for tile in tiles[head::8]]) for head in range(8)] for side in (0, 1)]
    k, v = (torch.stack(column, dim=1) for column in columns)
    return KVBlock(k[:layers], v[:layers]), KVBlock(k[layers:].contiguous(), v[layers:].contiguous())


class Quantised:
    """One family of the fused kernels over `values` `[S, T, D]`, its buffers touched."""

    def __init__(self, values: np.ndarray, levels: np.ndarray, rotate: bool, group: int) -> None:
        segments, tokens, dim = values.shape
        down, up = weights(0, dim)
        self.values, self.levels = values, levels
        self.weights = native.Weights(down[None], up[None]) if rotate else native.PLAIN
        self.lo, self.step = np.ones((2, segments, tokens * (dim // group)), np.uint16)
        self.out = np.ones_like(values)
        self.packed = np.ones(packed_bytes(levels, tokens * dim), np.uint8)

    def pack(self) -> tuple[Call, Call]:
        common = (self.levels, self.weights, self.lo, self.step)
        return (
            lambda: native.encode(self.values, *common, self.packed, True),
            lambda: native.decode(self.packed, *common, self.out, True),
        )

    def rans(self, tables: native.Tables) -> tuple[Call, Call]:
        common = (self.levels, self.weights, self.lo, self.step)
        parts = native.encode_rans(self.values, *common, tables)
        assert parts is not None
        data = np.frombuffer(b"".join(parts), np.uint8)
        return (
            lambda: native.encode_rans(self.values, *common, tables),
            lambda: native.decode_rans(data, *common, self.out, tables),
        )

    def symbols(self) -> np.ndarray:
        found = np.empty(self.values.size, np.uint8)
        native.encode(self.values, self.levels, self.weights, self.lo, self.step, found, False)
        return found.reshape(len(self.levels), -1)


def entropy_bytes(symbols: np.ndarray) -> float:
    """Order-0 entropy of all symbols together."""
    counts = np.bincount(symbols.reshape(-1)).astype(np.float64)
    shares = counts[counts > 0] / symbols.size
    return float(-(shares * np.log2(shares)).sum() * symbols.size / 8)


def speeds(values: np.ndarray, calibration: np.ndarray, repeats: int) -> list[Result]:
    segments = values.shape[0]
    copy, four = np.ones_like(values), np.full(segments, 16, np.uint16)
    plain, rotated = Quantised(values, four, False, 64), Quantised(values, four, True, 64)
    quantizer = presets()["kvserve-mixed-80"].strategy.k.quantizer
    assert isinstance(quantizer, Mixed)
    block = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16).reshape(-1, 8, *values.shape[1:])
    levels = quantizer.choose(some_tokens(block).float().numpy(), Place())[1]
    known = np.where(np.arange(len(calibration)) % 5 == 0, quantizer.high, quantizer.low).astype(np.uint16)
    table = rans.calibrate([(Quantised(calibration, known, False, 128).symbols(), known)], "reference")
    static = rans.Rans(table=table.name).frequencies(levels)
    rest, parts = native.exponent_encode(values)
    coded = np.frombuffer(b"".join(parts), np.uint8)
    paths: dict[str, tuple[Call, Call]] = {
        "uniform4_g64": plain.pack(),
        "hadamard_uniform4_g64": rotated.pack(),
        "kvserve_mixed": Quantised(values, levels, False, 128).rans(static),
        "lossless_bf16": (lambda: native.exponent_encode(values), lambda: native.exponent_decode(rest, coded, copy)),
    }
    results = []
    shape = f"bf16 {list(values.shape)}, {native.ISA}, one core"
    for name, (forth, back) in paths.items():
        took = race({"memcpy": lambda: np.copyto(copy, values), "encode": forth, "decode": back}, repeats)
        for way in ("encode", "decode"):
            results.append(Result(f"{name}.{way}_vs_memcpy", took["memcpy"] / took[way], "ratio", "higher", shape))
        memcpy_bytes_per_s = values.nbytes / took["memcpy"]
    results.insert(0, Result("memcpy.bytes_per_s", memcpy_bytes_per_s, "B/s", "higher", "the reference, in the last race"))

    exponents, others = split(block)
    bound = entropy_bytes(exponents) + entropy_bytes(others)
    size = (rest.size + coded.size) / bound
    results.append(Result("lossless_bf16.size_vs_entropy", size, "ratio", "lower", f"of its split; raw / size = {values.nbytes / (rest.size + coded.size):.3f}"))  # fmt: skip

    mixed = Quantised(values, levels, False, 128)
    symbols = mixed.symbols()
    stream = sum(map(len, native.rans_encode(symbols, levels)))
    runs = -(-segments // max(1, 2**18 // symbols.shape[1]))
    header = runs * (4 + 4 * 64 + sum(2 + 1.5 * int(each) for each in np.unique(levels)))
    order0 = sum(entropy_bytes(symbols[levels == each]) for each in np.unique(levels))
    results.append(Result("entropy_coder.size_vs_entropy", stream / (order0 + header), "ratio", "lower", f"adaptive tables; header {header / stream:.2%}"))  # fmt: skip

    packer = zstandard.ZstdCompressor(level=1)
    zstd_size = len(packer.compress(symbols.data))
    took = race({"zstd": lambda: packer.compress(symbols.data), "ours": lambda: native.rans_encode(symbols, levels)}, repeats)
    results.append(Result("vs_zstd1.encode", took["zstd"] / took["ours"], "ratio", "higher", "speed on the same symbols"))
    results.append(Result("vs_zstd1.size", stream / zstd_size, "ratio", "lower", "our bytes / its bytes"))

    one = race({"encode": paths["hadamard_uniform4_g64"][0], "decode": paths["hadamard_uniform4_g64"][1]}, repeats)
    native.set_threads(2)
    try:
        two = race({"encode": paths["hadamard_uniform4_g64"][0], "decode": paths["hadamard_uniform4_g64"][1]}, repeats)
    finally:
        native.set_threads(1)
    for way in ("encode", "decode"):
        results.append(Result(f"two_threads.{way}_speedup", one[way] / two[way], "ratio", "higher", "hadamard_uniform4_g64"))
    return results


def frames(block: KVBlock, repeats: int) -> list[Result]:
    """Whole frames, and the Python twin, on one layer."""
    name, few = "hadamard_uniform4_g64", KVBlock(block.k[:1], block.v[:1])
    strategy = Strategy.parse("hadamard+uniform:levels=16,axis=group,group=64+pack")
    raw, copy = few.k.view(torch.int16).numpy(), np.ones((2, *few.k.shape), np.int16)
    frame = encode_block(few, strategy)

    def memcpy() -> None:
        copy[0], copy[1] = raw, raw

    fast = race({"memcpy": memcpy, "encode": lambda: encode_block(few, strategy), "decode": lambda: decode_block(frame)}, repeats)  # fmt: skip
    slow = race({"memcpy": memcpy, "encode": lambda: encode_block(few, strategy, native_kernels=False), "decode": lambda: decode_block(frame, native_kernels=False)}, 3, 1)  # fmt: skip
    results = []
    for way in ("encode", "decode"):
        results.append(Result(f"{name}.python_{way}_vs_memcpy", slow["memcpy"] / slow[way], "ratio", "higher", "numpy twin, one layer, whole frame"))  # fmt: skip
        results.append(Result(f"{name}.frame_{way}_vs_memcpy", fast["memcpy"] / fast[way], "ratio", "higher", "native, one layer, with checksum and allocation"))  # fmt: skip
    results.append(Result(f"{name}.ratio", few.raw_bytes / len(frame), "ratio", "higher", "raw bytes / frame bytes"))
    return results


def peak_memory(block: KVBlock) -> list[Result]:
    """The worst over encode and decode of the hot paths: resident memory at its peak, less that before; of a decode,
    less the decoded block."""
    worst, what = 0.0, ""
    for text in ("hadamard+uniform:levels=16,axis=group,group=64+pack", "kvserve-mixed-80", "exponent"):
        strategy = presets()[text].strategy if text in presets() else Strategy.parse(text)
        before = _reset_peak()
        frame = encode_block(block, strategy)
        encode_extra = _peak() - before
        before = _reset_peak()
        decoded = decode_block(frame)
        decode_extra = _peak() - before - decoded.raw_bytes
        for way, extra in (("encode", encode_extra), ("decode", decode_extra)):
            if extra / len(frame) > worst:
                worst, what = extra / len(frame), f"{way} of {text}"
        del decoded, frame
    return [Result("peak_memory_vs_payload", worst, "ratio", "lower", f"worst: {what}; {block.raw_bytes / 2**20:.0f} MiB raw")]


def _reset_peak() -> int:
    ctypes.CDLL(None).malloc_trim(0)  # what lies free in the heap would hide what is taken
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def against_cachegen(block: KVBlock, repeats: int) -> list[Result]:
    """Both on the same K and V: four layers, 256 tokens (cachegen is slow on a CPU). Ours are whole frames, on one thread,
    of a strategy that is above its ratio and below its error for K and for V."""
    few = KVBlock(block.k[:4, :, :256].contiguous(), block.v[:4, :, :256].contiguous())
    k, v = (x.view(torch.int16).numpy().view(np.uint16) for x in (few.k, few.v))
    peer = cachegen.measure(k, v)
    if peer is None:
        return []
    strategy = Strategy.parse("uniform:levels=32,axis=token+pack")
    frame = encode_block(few, strategy)
    native.set_threads(1)
    took = race({"encode": lambda: encode_block(few, strategy), "decode": lambda: decode_block(frame)}, repeats)
    got, ratio = decode_block(frame), few.raw_bytes / len(frame)

    def error(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a.float() - b.float()).norm() / b.float().norm())

    note = (
        f"{strategy.short}: ratio {ratio:.2f} (theirs, bins {peer.bins}: {peer.ratio:.2f}), error K {error(got.k, few.k):.4f} "
        f"({peer.rmse_k:.4f}), V {error(got.v, few.v):.4f} ({peer.rmse_v:.4f})"
    )
    return [
        Result("vs_cachegen.encode", few.raw_bytes / took["encode"] / peer.encode_bytes_per_s, "ratio", "higher", note),
        Result("vs_cachegen.decode", few.raw_bytes / took["decode"] / peer.decode_bytes_per_s, "ratio", "higher", note),
        Result("vs_cachegen.ratio", ratio / peer.ratio, "ratio", "higher", note),
    ]


def main() -> None:
    arguments_parser = parser(__doc__ or "")
    arguments_parser.add_argument("--layers", type=int, default=32)
    arguments_parser.add_argument("--repeats", type=int, default=9)
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)
    block, other = reference_kv(arguments.layers)
    results = speeds(native.segments(block.k), native.segments(other.k), arguments.repeats)
    results += frames(block, arguments.repeats)
    results += peak_memory(block)
    results += against_cachegen(block, arguments.repeats)
    results.append(Result("space.strategies", len(set(enumerate_chains())), "count", "higher", "distinct valid chains"))
    publish("codec_speed", results, arguments.json)


if __name__ == "__main__":
    main()
