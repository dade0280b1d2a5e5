"""Run by the peer's interpreter: FOLDER/kv.npy (bf16 bits, `[2, L, H, T, D]`) → FOLDER/measured.json.

The serde as LMCache's engine builds it, with the bins that its own table gives a model of this many layers. Speeds are
medians of three calls after one that lets numba compile.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.memory_management import MemoryFormat, MemoryObjMetadata, TensorMemoryObj
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.naive_serde.cachegen_decoder import CacheGenDeserializer
from lmcache.v1.storage_backend.naive_serde.cachegen_encoder import CacheGenSerializer

REPEATS = 3


def timed(call):
    """(median seconds of a call, its last result)"""
    call()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def main(folder: Path) -> None:
    bits = np.load(folder / "kv.npy")
    _, layers, heads, tokens, dim = bits.shape
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": layers}))
    config = LMCacheEngineConfig.from_defaults(chunk_size=tokens)
    metadata = LMCacheMetadata(
        model_name=str(folder),
        world_size=1,
        local_world_size=1,
        worker_id=0,
        local_worker_id=0,
        kv_dtype=torch.bfloat16,
        kv_shape=(layers, 2, tokens, heads, dim),
        chunk_size=tokens,
    )
    serializer, deserializer = CacheGenSerializer(config, metadata), CacheGenDeserializer(config, metadata)

    kv = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    flat = kv.transpose(2, 3).reshape(2, layers, tokens, heads * dim).contiguous()
    described = MemoryObjMetadata(flat.shape, flat.dtype, -1, flat.nbytes, -1, fmt=MemoryFormat.KV_2LTD)
    memory = TensorMemoryObj(flat, described, parent_allocator=None)

    encode_s, stored = timed(lambda: serializer.serialize(memory))
    decode_s, back = timed(lambda: deserializer.deserialize(stored))
    # shaped as its gpu connector reads it
    got = back.tensor.reshape(2, layers, tokens, heads, dim).transpose(2, 3).float()
    errors = [float((got[side] - kv[side].float()).norm() / kv[side].float().norm()) for side in (0, 1)]
    bins = [sorted({int(each) for each in found}) for found in (serializer.key_bins, serializer.value_bins)]
    measured = {
        "ratio": flat.nbytes / len(stored.byte_array),
        "rmse_k": errors[0],
        "rmse_v": errors[1],
        "encode_bytes_per_s": flat.nbytes / encode_s,
        "decode_bytes_per_s": flat.nbytes / decode_s,
        "bins": f"K {bins[0]}, V {bins[1]}",
    }
    (folder / "measured.json").write_text(json.dumps(measured))


if __name__ == "__main__" and sys.argv[1] != "--check":  # the imports are the check
    main(Path(sys.argv[1]))
