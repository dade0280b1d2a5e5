"""Watching a command never costs the command anything."""

import sys

import pytest

from tightwire.ccl import watch
from tightwire.ccl.verdict import Verdict
from tightwire.ccl.watcher import Watcher


def test_a_fault_of_the_watcher_leaves_the_job_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Watcher) -> Verdict | None:
        raise IndexError("a fault of ours")

    monkeypatch.setattr(Watcher, "step", broken)
    watched = watch.run([sys.executable, "-c", "import time; time.sleep(1); raise SystemExit(7)"], print)
    assert watched.status == 7
    assert watched.verdict is None
    assert caplog.text.count("runs on unwatched") == 1
