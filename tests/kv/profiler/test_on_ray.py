from pathlib import Path

import pytest

from tightwire.errors import ConfigError
from tightwire.kv import refmodel
from tightwire.kv.profiler.model import Processes, Task
from tightwire.kv.profiler.on_ray import Ray

TASKS: list[Task] = [("uniform:levels=8+pack", "few"), ("uniform:levels=4+pack", "few"), ("hadamard+uniform:levels=4+pack", "few")]


@pytest.mark.filterwarnings("default")
def test_a_real_local_ray_measures_what_processes_measure(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    found = []
    for executor in (Ray("local", 1, refmodel.path(), tmp_path, 0), Processes(1, refmodel.path(), tmp_path, 0)):
        found.append(executor.map(TASKS))
        executor.close()
    assert found[0] == found[1]
    assert 1 > found[0][0] > found[0][1] > 0


def test_without_ray_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"tightwire\[ray\]"):
        Ray("local", 1, tmp_path, tmp_path, 0)
