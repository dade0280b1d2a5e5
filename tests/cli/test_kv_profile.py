from pathlib import Path

import pytest
from tests.kv.profiler.synthetic import Synthetic
from typer.testing import CliRunner

from tightwire.cli import app
from tightwire.errors import ConfigError
from tightwire.kv.profiler import model
from tightwire.kv.profiles import ProfileLibrary


class Nothing:
    def __init__(self, *arguments: object) -> None: ...

    def close(self) -> None: ...


class Bench(Synthetic):
    def __init__(self, folder: Path, tables: Path, seed: int) -> None:
        super().__init__()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(model, "ModelBench", Bench)
    monkeypatch.setattr(model, "Processes", Nothing)

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["kv", "profile", "--out", str(tmp_path / "library.json"), *arguments])
        if result.exception:
            raise result.exception
        return result.output

    return call


def test_writes_library_picture_and_page_and_says_where(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    output = run("--budget", "15")
    library = ProfileLibrary.load(tmp_path / "library.json")
    assert library.provenance["budget"] == "15"
    assert (tmp_path / "library.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "library.html").read_text()
    assert "plain-8" in page
    assert "Largest ratio at a quality" in output
    assert "of 15 measurements, front" in output
    assert "best ratio at quality 0.99" in output


def test_an_earlier_journal_is_only_used_on_request(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run("--budget", "12")
    first = (tmp_path / "library.json").read_bytes()
    with pytest.raises(ConfigError, match="--resume"):
        run("--budget", "12")
    run("--budget", "12", "--resume")
    assert (tmp_path / "library.json").read_bytes() == first


def test_nothing_to_resume_is_said(run) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="leave --resume out"):
        run("--resume")


def test_a_missing_model_is_said_before_any_work(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["kv", "profile", str(tmp_path / "none"), "--out", str(tmp_path / "library.json")])
    assert isinstance(result.exception, ConfigError)
    assert "config.json" in str(result.exception)
    assert not list(tmp_path.iterdir())
