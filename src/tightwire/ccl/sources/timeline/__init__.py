"""Recorded timelines of collective operations: Kineto and Chrome traces, Parquet and CSV tables."""

from tightwire.ccl.sources.timeline.columns import Columns
from tightwire.ccl.sources.timeline.files import read
from tightwire.ccl.sources.timeline.operations import Operation, Timeline

__all__ = ["Columns", "Operation", "Timeline", "read"]
