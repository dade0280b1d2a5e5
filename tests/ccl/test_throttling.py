"""Processor quotas as control groups of either version tell them."""

from pathlib import Path

import pytest

from tightwire.ccl import throttling
from tightwire.ccl.probe import process


def group(tmp_path: Path, version: int, quota: str) -> None:
    """Process 5 in a group `/job` with that quota, held back for 3 s so far."""
    (tmp_path / "proc/5").mkdir(parents=True)
    folder = tmp_path / ("root/cpu/job" if version == 1 else "root/job")
    folder.mkdir(parents=True)
    if version == 1:
        (tmp_path / "proc/5/cgroup").write_text("3:memory:/m\n2:cpu,cpuacct:/job\n0::/\n")
        (folder / "cpu.cfs_quota_us").write_text(quota)
        (folder / "cpu.cfs_period_us").write_text("100000")
        (folder / "cpu.stat").write_text("nr_periods 10\nnr_throttled 4\nthrottled_time 3000000000\n")
    else:
        (tmp_path / "proc/5/cgroup").write_text("0::/job\n")
        (folder / "cpu.max").write_text(f"{quota} 100000\n")
        (folder / "cpu.stat").write_text("nr_periods 10\nnr_throttled 4\nthrottled_usec 3000000\n")


@pytest.mark.parametrize(("version", "none"), [(1, "-1"), (2, "max")])
def test_a_quota_and_what_it_held_back(version: int, none: str, tmp_path: Path) -> None:
    group(tmp_path, version, "50000")
    where = (5, tmp_path / "proc", tmp_path / "root")
    assert process.throttled_s(*where) == 3.0
    told = throttling.watch(5, 0.0, tmp_path / "proc", tmp_path / "root")
    assert (told.cores, told.share) == (0.5, 0.0)
    assert told.group.endswith("/job")
    for name in ("cpu.cfs_quota_us", "cpu.max"):
        for path in (tmp_path / "root").rglob(name):
            path.write_text(none if version == 1 else f"{none} 100000")
    assert throttling.watch(5, 0.0, tmp_path / "proc", tmp_path / "root") is None


def test_no_group_of_its_own(tmp_path: Path) -> None:
    assert process.throttled_s(5, tmp_path / "proc", tmp_path / "root") == 0.0
    (tmp_path / "proc/5").mkdir(parents=True)
    (tmp_path / "proc/5/cgroup").write_text("1:cpu:/\n0::/\n")
    assert throttling.watch(5, 0.0, tmp_path / "proc", tmp_path / "root") is None
