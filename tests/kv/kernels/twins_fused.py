"""`fused` through Triton's row of the table of kernels: the bytes are those that CPUs make. Run by test_triton.py, on a GPU
and in Triton's interpreter, where CPU tensors stand for those of a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton

from tightwire.errors import FrameError
from tightwire.kv.codec import decode_tensor, encode_tensor
from tightwire.kv.kernels import fused, table
from tightwire.kv.kernels.triton import rows
from tightwire.kv.kernels.triton.host import Triton
from tightwire.kv.stages.base import NotFiniteError, Place
from tightwire.kv.stages.codecs import rans
from tightwire.kv.stages.transforms.equalize import Equalize
from tightwire.kv.strategy import Chain, Strategy

from .device import HERE, INTERPRETED

SHAPE = (1, 2, 2, 64)  # the interpreter takes milliseconds for every 4 symbols of the entropy coder
PLACE = Place(1, 0, "k")


def some_block(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16).to(HERE)


def chain(text: str) -> Chain:
    equalize = Equalize().calibrate([some_block(4, 2, 40, 64).float().cpu().numpy()], "m").name
    symbols = np.arange(12, dtype=np.uint8).repeat(20)[None]
    coder = rans.calibrate([(symbols % each, np.array([each], np.uint16)) for each in (6, 10, 12)], "m").name
    return Strategy.parse(text.replace("EQ", equalize).replace("CODER", coder)).k


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of Triton's row are noted; interpreted, tensors of the CPU go where those of a GPU go."""
    calls: list[str] = []
    for name in ("encode", "decode", "encode_lossless", "decode_lossless"):
        method = getattr(Triton, name)
        monkeypatch.setattr(Triton, name, lambda *a, method=method, name=name: (calls.append(name), method(*a))[1])
    monkeypatch.setattr(table, "GPUS", (HERE.type,))
    return calls


@pytest.mark.parametrize(
    "text",
    [
        "uniform:levels=16,axis=group,group=32+pack",
        "hadamard:seed=5+uniform:levels=12,axis=token+pack",
        "equalize:table=EQ+mixed:high=12,low=6,share=50+pack",
        "mixed:high=24,low=5,share=50+rans",
        "hadamard+mixed:high=12,low=6,share=50+rans:table=CODER",
        "equalize:table=EQ+uniform:levels=10+rans:table=CODER",
        "hadamard+uniform:levels=10+zstd",
        "exponent",
    ],
)
def test_the_bytes_are_those_of_the_cpu(gpu: list[str], text: str) -> None:
    x, stages = some_block(*SHAPE), chain(text)
    parts = fused.encode(x, stages, PLACE)
    assert parts is not None
    found = memoryview(b"".join(parts))
    back = fused.decode(found, stages, SHAPE, torch.bfloat16, PLACE, HERE)
    assert [call.removesuffix("_lossless") for call in gpu] == ["encode", "decode"]
    assert found == b"".join(encode_tensor(x.cpu(), stages, PLACE, native_kernels=False))
    arrived = decode_tensor(found, stages, SHAPE, torch.bfloat16, PLACE, native_kernels=False)
    assert back is not None
    assert torch.equal(back.cpu().view(torch.int16), arrived.view(torch.int16))


@pytest.mark.parametrize("text", ["uniform:levels=16+pack", "mixed+rans", "exponent"])
def test_what_is_damaged_or_cannot_be_said_is_refused(gpu: list[str], text: str) -> None:
    x, stages = some_block(*SHAPE), chain(text)
    found = b"".join(fused.encode(x, stages, PLACE) or [])
    for broken in (found[:-1], found + b"\0", found[:40]):
        with pytest.raises(FrameError):
            fused.decode(memoryview(broken), stages, SHAPE, torch.bfloat16, PLACE, HERE)
    x[0, 1, 1, 7] = torch.inf
    if text == "exponent":
        assert fused.encode(x, stages, PLACE)
    else:
        with pytest.raises(NotFiniteError):
            fused.encode(x, stages, PLACE)
    assert gpu


def test_what_triton_does_not_cover_takes_the_kernels_of_the_host(gpu: list[str]) -> None:
    x, stages = some_block(1, 2, 3, 96), chain("uniform:levels=16,axis=token+pack")
    assert b"".join(fused.encode(x, stages, PLACE) or []) == b"".join(encode_tensor(x.cpu(), stages, PLACE, native_kernels=False))
    assert not gpu


def test_blocks_as_an_engine_holds_them(gpu: list[str]) -> None:
    """[L, T, H, D], taken as [L, H, T, D]: the layers and heads cannot be one axis of a view."""
    x = some_block(2, 2, 2, 32).transpose(1, 2)
    for text in ("uniform:levels=16,axis=token+pack", "exponent"):
        wanted = b"".join(encode_tensor(x.cpu().contiguous(), chain(text), PLACE, native_kernels=False))
        assert b"".join(fused.encode(x, chain(text), PLACE) or []) == wanted
    assert len(gpu) == 2


def test_tensors_of_the_cpu_do_not_take_triton() -> None:
    assert not table.on_gpu(torch.device("cpu"))
    assert table.on_gpu(torch.device("cuda"))


def test_kernels_run_where_this_process_says() -> None:
    assert isinstance(rows.encode_kernel, triton.JITFunction) != INTERPRETED
