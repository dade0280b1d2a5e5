"""A folder: whole values only, whoever is killed; bounded; shared by processes; careful with what is not its own."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kv.store.helpers import Farm, key, value
from tightwire.errors import ConfigError
from tightwire.kv.store import open_store
from tightwire.kv.store.directory import Directory

SIZE = 100_000  # of a writer's values


class Ticks:
    """A wall clock that goes on by a second whenever it is asked."""

    def __init__(self) -> None:
        self.s = 1_000_000

    def __call__(self) -> int:
        self.s += 1
        return self.s * 10**9


def files(root: Path) -> list[Path]:
    return sorted(root.glob("??/*.twkv"))


def stored(root: Path) -> int:
    total = 0
    for path in files(root):
        with contextlib.suppress(FileNotFoundError):  # another process removed it meanwhile
            total += path.stat().st_size
    return total


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    made = Farm(tmp_path / "store", 2_500_000)
    yield made
    made.close()


def test_values_come_back_and_another_process_would_see_them(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "a" / "b", 10**6)
    for number in range(5):
        assert directory.put(key(number), value(key(number)))
        assert directory.put(key(number), value(key(number)))
    again = Directory(tmp_path / "a" / "b", 10**6, durable=True)
    assert again.put(key(5), value(key(5)))
    for number in range(6):
        got = again.get(key(number), 1000)
        assert got is not None
        assert got.readonly
        assert got == value(key(number))
    assert again.get(key(9), 1000) is None
    assert again.contains([key(0), key(3), key(9), key(1)]) == 2
    again.remove(key(0))
    again.remove(key(0))
    assert directory.contains([key(0)]) == 0
    assert not list((tmp_path / "a" / "b" / "tmp").iterdir())


def test_too_large_for_the_reader_is_a_miss_and_goes(tmp_path: Path) -> None:
    directory = Directory(tmp_path, 10**6)
    directory.put(key(1), value(key(1), 1001))
    assert directory.get(key(1), 1000) is None
    assert files(tmp_path) == []


def test_neither_a_link_nor_a_pipe_is_read(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "store", 10**6)
    (tmp_path / "secret").write_bytes(b"secret")
    path = tmp_path / "store" / key(1)[:2] / f"{key(1)}.twkv"
    path.parent.mkdir()
    path.symlink_to(tmp_path / "secret")
    assert directory.get(key(1), 100) is None
    assert not path.is_symlink()
    os.mkfifo(path)
    assert directory.get(key(1), 100) is None  # and it does not wait for a writer


def test_what_was_used_longest_ago_goes_and_a_prefix_from_its_end(tmp_path: Path) -> None:
    directory = Directory(tmp_path, 32_000, now_ns=Ticks())
    names = [key(number) for number in range(32)]
    for name in names:
        assert directory.put(name, value(name))
    assert len(files(tmp_path)) == 32
    used = names[:8]
    assert directory.contains(used) == 8
    for number in range(32, 54):
        assert directory.put(key(number), value(key(number)))
        assert stored(tmp_path) <= 32_000
    assert directory.contains(used) == 8
    assert directory.contains([names[8]]) == 0
    for number in range(54, 54 + 26):
        assert directory.put(key(number), value(key(number)))
    left = directory.contains(used)
    assert 0 < left < 8  # its beginning is what stayed
    assert not any(directory.contains([name]) for name in used[left:])


def test_one_value_larger_than_everything_is_refused_and_evicts_nothing(tmp_path: Path) -> None:
    directory = Directory(tmp_path, 10_000)
    directory.put(key(1), value(key(1)))
    assert not directory.put(key(2), value(key(2), 10_001))
    assert directory.contains([key(1)]) == 1
    assert directory.put(key(2), value(key(2), 10_000))
    assert stored(tmp_path) == 10_000


def test_only_its_own_files_are_counted_and_removed(tmp_path: Path) -> None:
    precious = [tmp_path / "notes.txt", tmp_path / "ab" / "photo.jpg", tmp_path / "tmp" / "mine", tmp_path / "abc" / f"{key(1)}.twkv"]  # fmt: skip
    for path in precious:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(50_000))
        os.utime(path, (1, 1))
    (tmp_path / "cd").symlink_to(tmp_path / "abc")
    directory = Directory(tmp_path, 10_000)
    for number in range(40):
        assert directory.put(key(number), value(key(number)))
    assert all(path.stat().st_size == 50_000 for path in precious)
    assert 5_000 <= stored(tmp_path) - 50_000 <= 10_000  # the glob follows the link


def test_what_killed_writers_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    directory = Directory(tmp_path, 10_000)
    young, old = tmp_path / "tmp" / "a.part", tmp_path / "tmp" / "b.part"
    for path in (young, old):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    directory.put(key(1), value(key(1)))
    assert young.exists()
    assert not old.exists()


def test_killed_at_random_moments_nothing_is_half_written(farm: Farm, tmp_path: Path) -> None:
    chosen, root = random.Random(1), tmp_path / "store"
    reader = Directory(root, 2_500_000)
    found = 0
    for round_ in range(25):
        pid = farm.start(round_)
        time.sleep(chosen.uniform(0.002, 0.04))
        os.kill(pid, signal.SIGKILL)
        for number in range(64):
            got = reader.get(key(number), SIZE)
            assert got is None or got == value(key(number), SIZE)
            found += got is not None
        assert stored(root) <= 2_500_000
    assert found > 100  # there was something to break


def test_processes_share_a_folder(farm: Farm, tmp_path: Path) -> None:
    writers, root, limit = 3, tmp_path / "store", 2_500_000
    reader = Directory(root, limit)
    pids = [farm.start(seed) for seed in range(writers)]
    try:
        until_s, found, largest = time.monotonic() + 1.5, 0, 0
        while time.monotonic() < until_s:
            for number in range(64):
                got = reader.get(key(number), SIZE)
                assert got is None or got == value(key(number), SIZE)
                found += got is not None
            reader.contains([key(number) for number in range(64)])
            largest = max(largest, stored(root))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    assert found > 100
    assert limit / 4 < largest <= limit + (writers - 1) * (limit // 16 + SIZE)


def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, text=True, check=False)  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        store = open_store(f"file://{disk}", timeout_s=5)
        taken = [store.put(key(number), value(key(number), 60_000)) for number in range(6)]
        assert taken[:3] == [True] * 3
        assert taken[4:] == [False] * 2
        assert store.error is None  # full is not broken
        assert store.get(key(0), 60_000) == value(key(0), 60_000)
        assert not list((disk / "tmp").iterdir())
        store.remove(key(0))
        assert store.put(key(9), b"small") or store.put(key(9), b"small")
        store.close()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="store folder"):
        Directory(tmp_path / "file" / "store", 1)
    with pytest.raises(ConfigError, match="max_bytes=0"):
        Directory(tmp_path, 0)
