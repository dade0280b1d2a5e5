"""A frame with any flipped bit, truncated anywhere or with a forged length is refused, without large allocation."""

import struct
import tracemalloc

import msgspec
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tightwire.errors import FrameError
from tightwire.kv import frame as wire
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.strategy import Strategy

torch.manual_seed(0)
BLOCK = KVBlock(torch.randn(2, 2, 9, 64).to(torch.bfloat16), torch.randn(2, 2, 9, 64).to(torch.bfloat16), 1, 32)
FRAMES = [
    encode_block(BLOCK, Strategy.parse(text), "m")
    for text in ("raw", "hadamard+uniform:levels=16+pack", "uniform:levels=6+zstd")
]


def forge(data: bytes, **changes: object) -> bytes:
    """The frame with some header fields changed and a right checksum: what a hostile sender would make."""
    parsed = wire.parse(data)
    header = msgspec.structs.replace(parsed.header, **changes)
    return bytes(wire.build(header, [parsed.payload]))


def refuse(data: bytes) -> FrameError:
    tracemalloc.start()
    try:
        with pytest.raises(FrameError) as caught:
            decode_block(data, "m")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000
    assert str(caught.value).startswith(caught.value.reason)
    return caught.value


@pytest.mark.parametrize("data", FRAMES)
def test_every_single_flipped_bit_of_prefix_and_header_is_refused(data: bytes) -> None:
    for bit in range(8 * 200):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            decode_block(bytes(damaged), "m")


@given(st.sampled_from(FRAMES), st.data())
def test_any_flipped_bit_is_refused(data: bytes, draw: st.DataObject) -> None:
    bit = draw.draw(st.integers(0, 8 * len(data) - 1))
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    refuse(bytes(damaged))


@given(st.sampled_from(FRAMES), st.data())
def test_truncated_anywhere_is_refused(data: bytes, draw: st.DataObject) -> None:
    refuse(data[: draw.draw(st.integers(0, len(data) - 1))])


@given(st.sampled_from(FRAMES), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_forged_lengths_are_refused(data: bytes, header_bytes: int, payload_bytes: int) -> None:
    forged = bytearray(data)
    struct.pack_into("<IQ", forged, 8, header_bytes, payload_bytes)
    struct.pack_into("<Q", forged, 20, xxhash.xxh3_64(bytes(forged[:20]) + bytes(forged[28:])).intdigest())
    assert refuse(bytes(forged)).reason in ("limit", "truncated", "length", "header")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": 2**20}, "payload"),
        ({"tokens": 2**40}, "limit"),
        ({"layers": 0}, "shape"),
        ({"head_dim": -64}, "shape"),
        ({"token_start": -1}, "shape"),
        ({"dtype": "float64"}, "header"),
        ({"strategy": "rm -rf"}, "strategy"),
        ({"strategy": "uniform:levels=4+zstd"}, "payload"),
        ({"k_bytes": 1}, "length"),
        ({"fingerprint": "other"}, "fingerprint"),
    ],
)
@pytest.mark.parametrize("data", FRAMES)
def test_forged_headers_are_refused(data: bytes, changes: dict, reason: str) -> None:
    assert refuse(forge(data, **changes)).reason in (reason, "payload")


@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode_block(data)


def test_a_whole_frame_is_read() -> None:
    for data in FRAMES:
        got = decode_block(data, "m")
        assert (got.layer_start, got.token_start, tuple(got.k.shape)) == (1, 32, (2, 2, 9, 64))
