from pathlib import Path

import pytest
from tests.kv.control.library import FOUR, LIBRARY, REQUEST, as_predicted, link
from typer.testing import CliRunner

from tightwire.cli import app
from tightwire.core.clock import FakeClock
from tightwire.errors import ConfigError
from tightwire.kv.control.controller import Controller
from tightwire.kv.control.log import DecisionLog
from tightwire.kv.control.settings import Settings
from tightwire.kv.plan import Shape, make

WIDE = {"COLUMNS": "220"}


def test_slower_links_compress_and_faster_ones_do_not() -> None:
    plan = make(LIBRARY, REQUEST, 1e9, Settings())
    chosen = [decision.chosen for decision in plan.decisions]
    assert chosen[0] != "raw"
    assert chosen[-1] == "raw"


def test_shapes_are_read_and_wrong_ones_named() -> None:
    assert Shape.parse("32,8,128").token_bytes == 131072
    assert Shape.parse("32,8,128,float32").token_bytes == 262144
    for wrong in ("32,8", "32,8,x", "0,8,128", "32,8,128,int3"):
        with pytest.raises(ConfigError, match="model-shape"):
            Shape.parse(wrong)


def test_the_commands_print_and_write(tmp_path: Path) -> None:
    LIBRARY.save(tmp_path / "library.json")
    words = ["kv", "plan", "--library", str(tmp_path / "library.json"), "--link", "1gbit", "--slo-ttft", "500ms"]
    for name in ("plan.png", "plan.html"):
        done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / name)], env=WIDE)
        assert done.exit_code == 0, done.output
        assert (tmp_path / name).stat().st_size > 1000
    for expected in ("What would be chosen", "break-even", "missed", "quality 0.500 is below the budget"):
        assert expected in done.output
    assert isinstance(CliRunner().invoke(app, [*words, "--out", "plan.txt"]).exception, ConfigError)


def test_explain_prints_what_the_connector_wrote(tmp_path: Path) -> None:
    controller, log = Controller(LIBRARY, Settings(explore_share=0.0), FakeClock()), DecisionLog(tmp_path)
    for _ in range(3):
        decision = controller.decide(REQUEST, link(1e7))
        log.write(controller.observe(decision, as_predicted(decision, total=1.5)))
    log.close()
    done = CliRunner().invoke(app, ["kv", "explain", str(tmp_path), "-n", "2"], env=WIDE)
    assert done.exit_code == 0, done.output
    assert done.output.count("80 Mbit/s") >= 2
    assert "measured" in done.output
    assert FOUR.strategy.split(":")[0] in done.output
