"""`tightwire kv quality` and `tightwire kv sensitivity` as a user meets them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tightwire import cli
from tightwire.errors import ConfigError, StrategyError

runner = CliRunner()
SMALL = ["--lengths", "96", "--prompts", "1"]
WIDE = {"COLUMNS": "200"}


def test_quality_prints_intervals_and_writes_the_record(tmp_path: Path) -> None:
    file = tmp_path / "new" / "quality.json"
    command = ["kv", "quality", "-s", "quarot-4", "-s", "raw", *SMALL, "--json", str(file)]
    done = runner.invoke(cli.app, command, env=WIDE)
    assert done.exit_code == 0, done.output
    assert "quarot-4" in done.output
    assert "1.0000 [1.0000, 1.0000]" in done.output
    for task in ("lookup", "copy", "recall"):
        assert task in done.output
    written = json.loads(file.read_text())
    quarot, raw = written["results"]
    assert (written["lengths"], written["prompts"]) == ([96], 1)
    assert raw["relative"] == 1
    assert quarot["relative"] < 1 < quarot["ratio"]
    assert set(quarot) >= {"relative_ci", "kl", "perplexity", "agreement", "exact", "strategy", "name"}


def test_sensitivity_draws_a_picture_and_writes_tables(tmp_path: Path) -> None:
    picture, tables, file = tmp_path / "heads.png", tmp_path / "tables", tmp_path / "heads.json"
    command = ["kv", "sensitivity", *SMALL, "--out", str(picture), "--tables", str(tables), "--json", str(file)]
    done = runner.invoke(cli.app, command, env=WIDE)
    assert done.exit_code == 0, done.output
    assert done.output.count("head 1") == done.output.count("layer ") == 4
    assert picture.read_bytes().startswith(b"\x89PNG")
    kinds = [kind for kind in ("allocate", "deadzone", "mixed") for _ in "kv"]
    assert sorted(path.name.split("-")[0] for path in tables.iterdir()) == kinds
    assert len(json.loads(file.read_text())["results"]["k"]["heads"]) == 4


@pytest.mark.parametrize(
    ("command", "error", "message"),
    [
        (["kv", "quality"], ConfigError, "strategy is missing"),
        (["kv", "quality", "-s", "nope"], StrategyError, "unknown stage"),
        (["kv", "quality", "-s", "raw", "--lengths", "a,b"], ConfigError, "lengths='a,b'"),
        (["kv", "quality", "no-such-folder", "-s", "raw"], ConfigError, r"no config\.json"),
        (["kv", "sensitivity", "no-such-folder"], ConfigError, r"no config\.json"),
    ],
)
def test_errors_come_before_any_work(command: list[str], error: type[Exception], message: str) -> None:
    done = runner.invoke(cli.app, command)
    with pytest.raises(error, match=message):
        raise done.exception or AssertionError(done.output)
