"""The Triton kernels: equal to their twins in Triton's interpreter and, where there is one, on a GPU; compiled for sm_90."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed (Linux only: pip install 'tightwire[gpu]')")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource, make_backend  # noqa: E402
from triton.runtime.jit import create_function_from_signature  # noqa: E402

from tightwire.kv.kernels.triton import lossless, plan, rans, rows  # noqa: E402
from tightwire.kv.kernels.triton.bf16 import EXACT  # noqa: E402

POINTERS = {
    "x": "*i16", "lo_step": "*i16", "symbols": "*u8", "bad": "*i32", "levels": "*i32", "starts": "*i64", "down": "*fp32",
    "up": "*fp32", "offset": "*fp32", "counts": "*i32", "slots": "*i32", "words": "*i16", "sizes": "*i32",
    "states": "*i32", "tables": "*i32", "data": "*u8", "spans": "*i64", "wrong": "*i32", "exponents": "*u8", "rest": "*u8",
}  # fmt: skip
UNALIGNED = ("data", "exponents", "rest", "symbols")  # parts of a payload or stream
TARGET = GPUTarget("cuda", 90, 32)
# A cover of dimensions, groups, modes and forms: every pair of mode and form.
CASES = [
    (64, 64, 0, 0), (128, 64, 0, 1), (256, 64, 0, 2), (32, 32, 1, 0), (128, 128, 1, 1), (64, 16, 1, 2), (128, 32, 2, 0),
    (256, 256, 2, 1), (32, 16, 2, 2),
]  # fmt: skip


def compiled(kernel: Any, options: dict[str, Any], **constants: Any) -> str:
    """The kernel's PTX for sm_90 as it is launched; ptxas takes it."""
    signature = {name: "constexpr" if name in constants else POINTERS.get(name, "i32") for name in kernel.arg_names}
    aligned = [i for i, name in enumerate(kernel.arg_names) if name in POINTERS and name not in UNALIGNED]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    made = triton.compile(source, target=TARGET, options=options)
    ptx: str = made.asm["ptx"]
    assert ".target sm_90" in ptx
    assert made.asm["cubin"][:4] == b"\x7fELF"
    assert ".local" not in ptx  # nothing spills to memory
    return ptx


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.mark.parametrize(("dim", "group", "mode", "form"), CASES)
def test_rows_compile_for_sm_90(dim: int, group: int, mode: int, form: int) -> None:
    shape = {"D": dim, "GROUP": group, "MODE": mode, "FORM": form, "BLOCKS": 1 if form == rows.TAIL.value else plan.BLOCKS}
    encode = compiled(rows.encode_kernel, plan.OPTIONS, **shape, LIMIT=plan.LIMITS[mode])
    decode = compiled(rows.decode_kernel, plan.OPTIONS, **shape)
    for ptx in (encode, decode):
        assert "ftz" not in ptx  # subnormals stay what they are
        assert not re.search(r"div\.(full|approx)|rcp\.approx", ptx)
    threads = 32 * plan.OPTIONS["num_warps"]
    assert len(re.findall(r"\bfma\.", encode)) == shape["BLOCKS"] * 512 // threads  # one a value: it rounds
    assert not re.search(r"\bfma\.", decode)  # none made of a product and a sum


@pytest.mark.parametrize("lanes", [4, 64])
@pytest.mark.parametrize("kernel", [rans.encode_kernel, rans.decode_kernel])
def test_the_entropy_coder_compiles_for_sm_90(kernel: Any, lanes: int) -> None:
    ptx = compiled(kernel, rans.OPTIONS, LANES=lanes)
    assert "bar.sync" not in ptx  # lanes of one warp do not wait


def test_the_others_compile_for_sm_90() -> None:
    compiled(rans.count_kernel, EXACT, TILE=rans.TILE)
    for kernel in (lossless.split_kernel, lossless.merge_kernel):
        compiled(kernel, EXACT, D=80, BLOCK=lossless.BLOCK)


KERNELS = [
    rows.encode_kernel, rows.decode_kernel, rans.encode_kernel, rans.decode_kernel, rans.count_kernel, lossless.split_kernel,
    lossless.merge_kernel,
]  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_arguments_are_taken_as_they_are_given(kernel: Any) -> None:
    """By the function that Triton makes for launches, whose own names must not be those of arguments."""
    bind = create_function_from_signature(kernel.signature, kernel.params, make_backend(TARGET))
    pointers = [name for name in kernel.arg_names if name in POINTERS]
    given = {name: torch.zeros(16, dtype=torch.int16) if name in pointers else 7 for name in kernel.arg_names}
    bound, found, options = bind(*given.values(), num_warps=4)
    assert bound == given
    assert [kind[0] for kind in found].count("*i16") == len(pointers)
    assert options == {"num_warps": 4}


def test_integers_that_are_1_compile_as_constants() -> None:
    """As Triton launches them."""
    shape = {"D": 64, "GROUP": 64, "MODE": 0, "FORM": rows.TAIL.value, "BLOCKS": 1, "tokens": 1, "end": 1, "tiles": 1}
    compiled(rows.encode_kernel, plan.OPTIONS, **shape, LIMIT=plan.LIMITS[0])
    compiled(rows.decode_kernel, plan.OPTIONS, **shape)
    for kernel in (rans.encode_kernel, rans.decode_kernel):
        compiled(kernel, rans.OPTIONS, LANES=4, first_run=1, segments=1, per_run=1, count=1)
    compiled(rans.count_kernel, EXACT, TILE=rans.TILE, count=1, tiles=1)
    compiled(lossless.split_kernel, EXACT, D=1, BLOCK=lossless.BLOCK, count=1, tiles=1, x_segment=1, x_token=1)


@pytest.mark.timeout(900)  # 40 s of processor time, several minutes on a machine that does other things
def test_interpreted_kernels_equal_their_twins() -> None:
    """In a process of its own: Triton reads TRITON_INTERPRET when kernels are defined."""
    run_twins({"TRITON_INTERPRET": "1"})
    assert isinstance(rows.encode_kernel, triton.JITFunction)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.timeout(900)
def test_kernels_on_a_gpu_equal_their_twins() -> None:
    run_twins({})


def run_twins(variables: dict[str, str]) -> None:
    tests = map(str, sorted(Path(__file__).parent.glob("twins_*.py")))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
