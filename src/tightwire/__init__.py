"""Tightwire: what crosses the wire between the machines of an LLM system.

`tightwire.kv` sends KV caches with as few bytes as the link and the quality budget ask for;
`tightwire.ccl` knows why a collective is stuck. The two meet in `tightwire.core`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tightwire")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+unknown"
