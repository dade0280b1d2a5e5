"""PyTorch's Flight Recorder dumps, read without trusting them and without torch."""

from tightwire.ccl.sources.flight_recorder.dump import Dump, Entry
from tightwire.ccl.sources.flight_recorder.folder import DumpSet, read
from tightwire.ccl.sources.flight_recorder.plain_pickle import DumpError

__all__ = ["Dump", "DumpError", "DumpSet", "Entry", "read"]
