"""docs/strategies.md names what exists, and nothing else."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from tightwire.kv.presets import presets, resolve
from tightwire.kv.stages import STAGES
from tightwire.kv.stages.base import Codec, Correction, Lossless, Quantizer, Stage, Transform
from tightwire.kv.strategy import Exact

DOC = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text(encoding="utf-8")


def first_column(head: str) -> list[str]:
    """What stands between backticks in the first column of the table whose first column is called `head`."""
    (table,) = re.findall(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", DOC, re.MULTILINE)
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("transform", Transform),
        ("correction", Correction),
        ("quantizer", Quantizer),
        ("codec", Codec),
        ("lossless", Lossless),
    ],
)
def test_every_stage_is_documented_once_under_its_kind(head: str, kind: type[Stage]) -> None:
    ours = [name for name in STAGES.names() if STAGES[name].__module__.startswith("tightwire.")]
    assert sorted(first_column(head)) == [name for name in ours if issubclass(STAGES[name], kind)]


def test_every_preset_is_documented_in_order() -> None:
    assert first_column("preset") == list(presets())


def test_every_stage_with_a_table_is_named() -> None:
    (sentence,) = re.findall(r"^(.*) have a setting `table`", DOC, re.MULTILINE)
    ours = [name for name in STAGES.names() if "table" in {field.name for field in fields(STAGES[name])}]
    assert re.findall(r"`(\w+)`", sentence) == ours


def test_every_way_of_protection_is_named() -> None:
    (line,) = re.findall(r"^`@(.*?)`", DOC, re.MULTILINE)
    assert [part.split("=")[0] for part in line.split(",")] == [field.name for field in fields(Exact)]


def test_the_examples_are_valid() -> None:
    block = re.findall(r"^```\n((?:hadamard|uniform).*?)^```", DOC, re.MULTILINE | re.DOTALL)[0]
    asked = re.findall(r"tightwire kv strategies '([^']+)'", DOC)
    for text in (*block.split(), *asked):
        assert resolve(text)
    assert len(block.split()) == 2
    assert asked
