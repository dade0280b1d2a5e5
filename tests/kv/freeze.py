"""Writes a frozen frame: `python -m tests.kv.freeze NAME STRATEGY [--shape L,H,T,D] [--dtype D] [--values KIND] …`.

tests/kv/frozen/NAME.frame, and what it decodes to: NAME.sha256 of K's and then V's memory, or, where decoding goes
through a matrix product or a cosine, whose last bit the processor's libraries decide, NAME.values (a raw frame).
Tables that the strategy names are searched in that folder and stay there. What exists is never overwritten.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

import torch

from tests.kv.strategies import KINDS, NOT_FINITE, hard_values
from tightwire.kv.block import DTYPES, KVBlock, as_bytes
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.frame import parse
from tightwire.kv.strategy import RAW, Strategy

FOLDER = Path(__file__).parent / "frozen"
FINGERPRINT = "frozen"
INEXACT = {"lowrank", "pca", "rope"}


def digest(block: KVBlock) -> str:
    return hashlib.sha256(as_bytes(block.k).tobytes() + as_bytes(block.v).tobytes()).hexdigest()


def stages(strategy: Strategy) -> set[str]:
    return {stage.name for chain in (strategy.k, strategy.v) for stage in chain.stages}


def freeze(name: str, block: KVBlock, strategy: Strategy) -> list[Path]:
    """The files written. AssertionError where the two paths differ, FileExistsError where the name is taken."""
    frame = encode_block(block, strategy, FINGERPRINT)
    assert frame == encode_block(block, strategy, FINGERPRINT, native_kernels=False)
    got = decode_block(frame)
    assert digest(got) == digest(decode_block(frame, native_kernels=False))
    used = Strategy.parse(parse(frame).header.strategy)
    files = {FOLDER / f"{name}.frame": bytes(frame)}
    if stages(used) & INEXACT:
        files[FOLDER / f"{name}.values"] = bytes(encode_block(got, RAW, FINGERPRINT))
    else:
        files[FOLDER / f"{name}.sha256"] = (digest(got) + "\n").encode()
    taken = list(FOLDER.glob(f"{name}.*"))
    if taken:
        raise FileExistsError(f"{taken[0]} exists; a frozen frame never changes: take another name")
    FOLDER.mkdir(exist_ok=True)
    for path, data in files.items():
        path.write_bytes(data)
    return list(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("strategy")
    parser.add_argument("--shape", default="1,2,9,64", help="layers,heads,tokens,head_dim")
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    parser.add_argument("--values", default="normal", choices=(*KINDS, *NOT_FINITE))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layer-start", type=int, default=0)
    parser.add_argument("--token-start", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.setdefault("TIGHTWIRE_TABLES", str(FOLDER))
    torch.set_num_threads(1)
    shape = tuple(int(size) for size in arguments.shape.split(","))
    k, v = (hard_values(arguments.values, shape, DTYPES[arguments.dtype], arguments.seed + side) for side in (0, 1))
    block = KVBlock(k, v, arguments.layer_start, arguments.token_start)
    try:
        print(*freeze(arguments.name, block, Strategy.parse(arguments.strategy)))
    except FileExistsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
