"""How much a strategy hurts a model.

| module | what |
|---|---|
| `suite` | `Suite`: prompts prefilled once; measures any number of strategies against raw KV |
| `prompts` | held-out text, lookup, copy and recall for any tokenizer |
| `sides` | K or V of the suite as it would arrive, kept for the next strategy that asks for it |
| `record` | `Quality`: what is measured, with intervals |
| `proxy` | the error of attention's output, without a pass through the model |
| `likelihood` | a quick figure for the demo |
"""

from tightwire.kv.quality.likelihood import common_prefix, relative_likelihood, through
from tightwire.kv.quality.proxy import rank_correlation
from tightwire.kv.quality.record import Cell, Estimate, Quality
from tightwire.kv.quality.suite import Part, Suite

__all__ = [
    "Cell",
    "Estimate",
    "Part",
    "Quality",
    "Suite",
    "common_prefix",
    "rank_correlation",
    "relative_likelihood",
    "through",
]
