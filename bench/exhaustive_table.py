"""The whole space, measured once: quality of every point at both fidelities, proxy, ratio, speeds, and what each took.

`bench/profiler_search.py` replays searches over it. Resumable: what was measured stands in `--work` and is not measured
again. Seconds are CPU seconds of one core, so that other work on the machine does not count; start it with
OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1, or threads that wait for each other count too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import msgspec
import torch

sys.path.insert(0, str(Path(__file__).parent))

from harness import _commit, _machine
from spacetable import SideCost, SpaceTable
from tightwire.kv import refmodel
from tightwire.kv.engines.batched import BatchedModel
from tightwire.kv.profiler import rates
from tightwire.kv.profiler.calibration import Calibration
from tightwire.kv.profiler.model import FEW_LENGTHS
from tightwire.kv.profiler.space import Space, standard
from tightwire.kv.quality import Suite
from tightwire.kv.strategy import RAW, Strategy
from tightwire.kv.transfer.sender import DEFAULT_CHUNK_TOKENS

CPU = time.process_time
CACHE_BYTES = 4 * 2**30
_suites: dict[str, Suite] = {}


class Row(msgspec.Struct, frozen=True):
    """Of one point, named by its first strategy; seconds without its sides."""

    strategy: str
    full: float
    few: float
    proxy: float
    full_s: float
    few_s: float


class Block(msgspec.Struct, frozen=True):
    """All points of one K side and one kind of exactness, and what sides took that were new to the worker."""

    name: str
    rows: list[Row]
    k_s: dict[str, SideCost]
    v_s: dict[str, SideCost]


def start(folder: str, prompts: int) -> None:
    torch.set_num_threads(1)
    model = Path(folder)
    _suites["full"] = Suite.of(model, prompts=prompts, cache_bytes=CACHE_BYTES)
    _suites["few"] = Suite.of(model, fidelity="few", lengths=FEW_LENGTHS, cache_bytes=CACHE_BYTES)


def measure(name: str, texts: list[str]) -> Block:
    strategies = [Strategy.parse(text) for text in texts]
    rows, k_s, v_s = [], dict[str, SideCost](), dict[str, SideCost]()
    for text, strategy in zip(texts, strategies, strict=True):
        k = Strategy(strategy.k, RAW.v, strategy.exact)
        v = Strategy(RAW.k, strategy.v, strategy.exact)
        for side, found in ((k, k_s), (v, v_s)):
            if str(side) not in _known:
                _known.add(str(side))
                found[str(side)] = SideCost(*(timed(_suites[which].proxy, side)[1] for which in ("full", "few")))
        full, full_s = timed(_suites["full"].measure, strategy)
        few, few_s = timed(_suites["few"].measure, strategy)
        rows.append(Row(text, full.relative, few.relative, _suites["few"].proxy(strategy), full_s, few_s))
    return Block(name, rows, k_s, v_s)


_known: set[str] = set()


def timed(call, *arguments):  # type: ignore[no-untyped-def]
    """(what it gives, CPU seconds)"""
    before = CPU()
    given = call(*arguments)
    return given, CPU() - before


def blocks_of(space: Space) -> dict[str, list[str]]:
    """Points by K side and exactness, in the order in which V sides repeat most."""
    made: dict[str, list[str]] = {}
    for point in sorted(range(space.points), key=lambda p: (space.exact[p], space.k[p])):
        if not space.lossless[point]:
            strategy = space.strategies[space.at[point]]
            made.setdefault(f"{space.exact[point]}/{space.k[point]}", []).append(str(strategy))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data" / "space.json.xz")
    parser.add_argument("--work", type=Path, default=Path("exhaustive"), help="folder for what a restart needs")
    parser.add_argument("--model", type=Path, default=refmodel.path())
    parser.add_argument("--prompts", type=int, default=3, help="of each task and length, at full fidelity")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--blocks", type=int, help="only that many blocks: a trial")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    os.environ["TIGHTWIRE_TABLES"] = str(work / "tables")
    model = BatchedModel(arguments.model)
    calibration = Calibration(model, DEFAULT_CHUNK_TOKENS)
    space = standard(calibration.make(work / "tables"))
    if not (work / "rates.json").exists():
        before = CPU()
        found = rates.measure(space, calibration.blocks, calibration.attention, CPU)
        (work / "rates.json").write_bytes(msgspec.json.encode((space.fingerprint, CPU() - before, found)))
    fingerprint, rates_s, of_sides = msgspec.json.decode((work / "rates.json").read_bytes(), type=tuple[str, float, rates.Rates])
    assert fingerprint == space.fingerprint, "the work folder is of another model or space: remove it"
    done = [msgspec.json.decode(line, type=Block) for line in _lines(work / "blocks.jsonl")]
    names = {block.name for block in done}
    left = {name: texts for name, texts in blocks_of(space).items() if name not in names}
    left = dict(list(left.items())[: arguments.blocks])
    total, began = space.points, time.monotonic()
    pool = ProcessPoolExecutor(arguments.workers, get_context("spawn"), start, (str(arguments.model), arguments.prompts))
    with pool, (work / "blocks.jsonl").open("ab") as file:
        waiting = [pool.submit(measure, name, texts) for name, texts in left.items()]
        for future in as_completed(waiting):
            block = future.result()
            file.write(msgspec.json.encode(block) + b"\n")
            file.flush()
            done.append(block)
            count = sum(len(each.rows) for each in done)
            print(f"{count} of {total} points, {time.monotonic() - began:.0f} s", flush=True)
    rows = {row.strategy: row for block in done for row in block.rows}
    provenance = {
        "model": model.fingerprint,
        "commit": _commit(),
        "machine": str(_machine()),
        "suite": f"{arguments.prompts} prompts of each task and length at full, 1 of each at {FEW_LENGTHS} at few",
        "command": "OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 bench/exhaustive_table.py",
    }
    SpaceTable.of(space, of_sides, rates_s, rows, done, provenance).save(arguments.out)
    print(f"wrote {arguments.out}: {arguments.out.stat().st_size} bytes")


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().rpartition(b"\n")[0].splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
