"""Verdicts from Flight Recorder dumps: align ranks by group, see who waits for whom, name where waiting ends."""

from tightwire.ccl.analyzer.dumps.verdicts import diagnose

__all__ = ["diagnose"]
