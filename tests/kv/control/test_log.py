from pathlib import Path

import pytest
from tests.kv.control.library import LIBRARY, REQUEST, as_predicted, link

from tightwire.errors import ConfigError
from tightwire.kv.control.controller import Controller
from tightwire.kv.control.log import DecisionLog, read
from tightwire.kv.control.records import Record


def records(count: int) -> list[Record]:
    controller = Controller(LIBRARY)
    made = []
    for number in range(count):
        decision = controller.decide(REQUEST, link(1e6 * (number + 1)))
        made.append(controller.observe(decision, as_predicted(decision)))
    return made


def test_the_last_ones_are_read_back_from_file_or_folder(tmp_path: Path) -> None:
    made = records(4)
    log = DecisionLog(tmp_path)
    for record in made:
        log.write(record)
    assert read(tmp_path) == made
    assert read(log.path, 2) == made[2:]
    assert read(log.path, 0) == []
    log.close()


def test_a_log_is_bounded_and_survives_a_killed_writer(tmp_path: Path) -> None:
    made = records(1)[0]
    path = tmp_path / "new" / "log.jsonl"
    log = DecisionLog(path, max_bytes=20_000)
    for _ in range(50):
        log.write(made)
    log.close()
    assert sum(file.stat().st_size for file in path.parent.iterdir()) <= 20_000
    whole = len(read(path))
    assert whole > 3
    path.write_bytes(path.read_bytes()[:-5])
    assert len(read(path)) == whole - 1
    again = DecisionLog(path, max_bytes=20_000)
    again.write(made)
    again.close()


def test_what_is_not_there_or_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no decision log"):
        read(tmp_path)
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(ConfigError, match="decisions="):
        DecisionLog(tmp_path / "file.txt" / "log.jsonl")
    with pytest.raises(ConfigError, match="max_bytes"):
        DecisionLog(tmp_path, max_bytes=0)
