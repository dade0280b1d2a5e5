"""The command as a user meets it."""

import json

import pytest
from typer.testing import CliRunner

from tightwire import cli
from tightwire.errors import StrategyError
from tightwire.kv.presets import presets
from tightwire.kv.stages import STAGES

runner = CliRunner()


@pytest.mark.parametrize(
    "command", [[], ["kv"], ["ccl"], ["kv", "strategies"], ["kv", "quality"], ["kv", "sensitivity"], ["kv", "profile"], ["kv", "demo"], ["ccl", "run"], ["ccl", "demo"], ["ccl", "agent"], ["ccl", "collect"], ["ccl", "drill"], ["ccl", "watch"], ["ccl", "diagnose"], ["demo"]]
)
def test_every_command_has_help(command: list[str]) -> None:
    done = runner.invoke(cli.app, [*command, "--help"])
    assert done.exit_code == 0
    assert "Usage" in done.output


def test_strategies_lists_all_stages() -> None:
    done = runner.invoke(cli.app, ["kv", "strategies"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    for name in (*STAGES, "kivi-2", "quarot-4"):
        assert name in done.output
    listed = json.loads(runner.invoke(cli.app, ["kv", "strategies", "--json"]).output)
    assert {row["stage"] for row in listed["stages"]} == set(STAGES)
    assert {row["preset"] for row in listed["presets"]} == set(presets())


def test_a_strategy_is_checked() -> None:
    assert "valid" in runner.invoke(cli.app, ["kv", "strategies", "hadamard+uniform:levels=10+zstd"]).output
    assert "lowrank:rank=4" in runner.invoke(cli.app, ["kv", "strategies", "gear-4"]).output
    failed = runner.invoke(cli.app, ["kv", "strategies", "hadamard+pack"])
    assert isinstance(failed.exception, StrategyError)


def test_an_error_has_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["tightwire", "kv", "strategies", "hadamar"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "unknown stage 'hadamar'" in printed
    assert "Traceback" not in printed


def test_a_command_that_cannot_start_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tightwire", "ccl", "run", "--", "no-such-command"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "no-such-command" in capsys.readouterr().err
