"""Everything that can stand in a chain. Importing this package registers all stages of the package."""

from tightwire.kv.stages import raw
from tightwire.kv.stages.base import STAGES
from tightwire.kv.stages.codecs import pack, zstd
from tightwire.kv.stages.quantizers import uniform
from tightwire.kv.stages.transforms import hadamard

__all__ = ["STAGES", "hadamard", "pack", "raw", "uniform", "zstd"]
