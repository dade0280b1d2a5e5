"""`tightwire ccl diagnose` prints panels, or a list of verdicts."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from tightwire.ccl.sources.flight_recorder import simulate
from tightwire.cli.ccl import app


def test_json_is_a_list_of_verdicts(tmp_path: Path) -> None:
    case = simulate.case(0)
    simulate.write(case, tmp_path)
    done = CliRunner().invoke(app, ["diagnose", str(tmp_path), "--json"])
    assert done.exit_code == 0
    (verdict,) = json.loads(done.stdout)
    assert verdict["class"] == case.anomaly
    assert verdict["guilty_ranks"] == case.guilty
    assert {"guilty_links", "confidence", "group", "operation", "evidence"} <= verdict.keys()


def test_panels_name_the_rank_and_the_file_that_was_refused(tmp_path: Path) -> None:
    case = simulate.case(0)
    simulate.write(case, tmp_path)
    (tmp_path / "_dump_999").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    done = CliRunner().invoke(app, ["diagnose", str(tmp_path)])
    assert f"guilty: rank {case.rank}" in done.stdout
    assert "_dump_999: refused: it asks for os.system" in done.stdout
