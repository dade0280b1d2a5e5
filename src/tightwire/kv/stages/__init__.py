"""Everything that can stand in a chain. Importing this package registers all stages of the package."""

from tightwire.kv.stages import raw
from tightwire.kv.stages.base import STAGES
from tightwire.kv.stages.codecs import deflate, lz4, pack, rans, zstd
from tightwire.kv.stages.corrections import lowrank
from tightwire.kv.stages.lossless import exponent, splitzip
from tightwire.kv.stages.quantizers import allocate, deadzone, fp8, mixed, nonuniform, uniform
from tightwire.kv.stages.transforms import delta, equalize, hadamard, outliers, pca, rope

__all__ = [
    "STAGES", "allocate", "deadzone", "deflate", "delta", "equalize", "exponent", "fp8", "hadamard", "lowrank", "lz4", "mixed",
    "nonuniform", "outliers", "pack", "pca", "rans", "raw", "rope", "splitzip", "uniform", "zstd",
]  # fmt: skip
