"""Everything that can stand in a chain. Importing this package registers all stages of the package."""

from tightwire.kv.stages import raw
from tightwire.kv.stages.base import STAGES
from tightwire.kv.stages.codecs import pack, rans, zstd
from tightwire.kv.stages.lossless import exponent
from tightwire.kv.stages.quantizers import mixed, uniform
from tightwire.kv.stages.transforms import equalize, hadamard

__all__ = ["STAGES", "equalize", "exponent", "hadamard", "mixed", "pack", "rans", "raw", "uniform", "zstd"]
