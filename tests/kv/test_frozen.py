"""Frames of version 1 decode for ever, to the same bits, on both paths.

Every NAME.frame in frozen/ was written by the code of its day, and nothing there may ever be changed or removed: a
failure here means that the code no longer reads what older senders and stores hold. A new stage, or a new form of a
payload, adds frames: `python -m tests.kv.freeze NAME STRATEGY` (it refuses to overwrite).
"""

from pathlib import Path

import pytest
import torch

from tests.kv.freeze import FINGERPRINT, FOLDER, INEXACT, digest, freeze, stages
from tightwire.kv import tables
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block
from tightwire.kv.frame import parse
from tightwire.kv.stages import STAGES
from tightwire.kv.strategy import Strategy

NAMES = sorted(path.stem for path in FOLDER.glob("*.frame"))


@pytest.fixture(autouse=True)
def _tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIGHTWIRE_TABLES", str(FOLDER))
    monkeypatch.setattr(tables, "_held", {})


def strategy(name: str) -> Strategy:
    return Strategy.parse(parse((FOLDER / f"{name}.frame").read_bytes()).header.strategy)


@pytest.mark.parametrize("native_kernels", [True, False], ids=["native", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_frame_decodes_to_what_it_always_did(name: str, native_kernels: bool) -> None:
    got = decode_block((FOLDER / f"{name}.frame").read_bytes(), FINGERPRINT, native_kernels=native_kernels)
    values = FOLDER / f"{name}.values"
    if not values.exists():
        assert digest(got) == (FOLDER / f"{name}.sha256").read_text().strip()
        return
    wanted = decode_block(values.read_bytes())
    assert (got.layer_start, got.token_start) == (wanted.layer_start, wanted.token_start)
    for x, y in ((got.k, wanted.k), (got.v, wanted.v)):
        assert x.dtype is y.dtype
        # the last bit of a sum may differ, and then the rounding to the block's own type
        torch.testing.assert_close(
            x.float(), y.float(), rtol=torch.finfo(x.dtype).eps, atol=4e-6 * float(y.abs().max())
        )


def test_only_what_goes_through_a_product_is_compared_with_a_tolerance() -> None:
    near = {path.stem for path in FOLDER.glob("*.values")}
    assert near == {name for name in NAMES if stages(strategy(name)) & INEXACT}
    assert {path.stem for path in FOLDER.glob("*.sha256")} == set(NAMES) - near


def test_every_stage_of_the_package_is_frozen() -> None:
    ours = {name for name in STAGES if STAGES[name].__module__.startswith("tightwire.")}
    assert ours == set.union(*(stages(strategy(name)) for name in NAMES))


def test_every_stage_with_a_table_is_frozen_with_one() -> None:
    named = {
        (stage.name, table)
        for name in NAMES
        for chain in (strategy(name).k, strategy(name).v)
        for stage in chain.stages
        if (table := getattr(stage, "table", "own")) != "own"
    }
    assert {table for _, table in named} == {path.stem for path in FOLDER.glob("*.table")}
    assert {kind for kind, _ in named} == {name for name in STAGES if "table" in STAGES[name].__dataclass_fields__}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.table")), ids=lambda path: path.stem)
def test_a_frozen_table_keeps_its_name(path: Path) -> None:
    assert tables.load(path).name == path.stem


def test_all_dtypes_odd_shapes_and_exact_parts_are_frozen() -> None:
    headers = [parse((FOLDER / f"{name}.frame").read_bytes()).header for name in NAMES]
    assert {header.dtype for header in headers} == {"bfloat16", "float16", "float32"}
    assert {64, 80, 128} <= {header.head_dim for header in headers}
    assert 1 in {header.tokens for header in headers}
    assert any(header.exact_layers != (0, 0) and header.exact_tokens != (0, 0) for header in headers)


def test_nothing_frozen_is_overwritten() -> None:
    before = {path: path.read_bytes() for path in FOLDER.iterdir()}
    x = torch.zeros(1, 1, 4, 64)
    with pytest.raises(FileExistsError, match="never changes"):
        freeze("raw", KVBlock(x, x), Strategy.parse("raw"))
    assert before == {path: path.read_bytes() for path in FOLDER.iterdir()}
