from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tightwire.kv.profiler.model import Suites


@pytest.mark.parametrize(("sample", "told"), [("few", 0.98), ("full", 0.98), ("fresh", 0.975)])
def test_a_library_promises_a_standard_error_less(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sample: Any, told: float
) -> None:
    monkeypatch.setenv("TIGHTWIRE_TABLES", "")
    suite = SimpleNamespace(measure=lambda strategy: SimpleNamespace(relative=0.98, standard_error=0.005))
    monkeypatch.setattr(Suites, "_suite", lambda self, asked: suite)
    assert Suites(tmp_path, tmp_path, 0).relative(("raw", sample)) == pytest.approx(told)
