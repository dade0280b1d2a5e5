"""A model as the bench of a profiling run: quality by suites in worker processes, rates and final timings here."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import torch

from tightwire import __version__
from tightwire.kv import blas
from tightwire.kv.engines.batched import BatchedModel
from tightwire.kv.kernels import native
from tightwire.kv.profiler import rates
from tightwire.kv.profiler.calibration import Calibration
from tightwire.kv.profiler.journal import Sample
from tightwire.kv.profiler.space import published, standard
from tightwire.kv.profiles import Profile, measure
from tightwire.kv.quality import Suite
from tightwire.kv.strategy import Strategy
from tightwire.kv.transfer.sender import DEFAULT_CHUNK_TOKENS

FEW_LENGTHS = (128, 512)
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
FRESH_SEED = 104_729  # added to the seed: prompts that the search did not see
Task = tuple[str, Sample]


class Suites:
    """Those of one process, made when they are first asked for."""

    def __init__(self, folder: Path, tables: Path, seed: int) -> None:
        os.environ["TIGHTWIRE_TABLES"] = str(tables)
        torch.set_num_threads(1)
        self._folder, self._seed, self._made = folder, seed, dict[Sample, Suite]()

    def relative(self, task: Task) -> float:
        """On fresh prompts, which decide what a library promises, a standard error less than was measured: of many
        strategies that were measured with some luck, the best looking ones had the most."""
        text, sample = task
        if sample not in self._made:
            self._made[sample] = self._suite(sample)
        quality = self._made[sample].measure(Strategy.parse(text))
        return quality.relative - quality.standard_error if sample == "fresh" else quality.relative

    def _suite(self, sample: Sample) -> Suite:
        match sample:
            case "full":
                return Suite.of(self._folder, seed=self._seed)
            case "few":
                return Suite.of(self._folder, seed=self._seed, fidelity="few", lengths=FEW_LENGTHS)
            case "fresh":
                return Suite.of(self._folder, seed=self._seed + FRESH_SEED)


class Executor(Protocol):
    """Measures tasks wherever it can; answers in the order of the tasks."""

    def map(self, tasks: Sequence[Task]) -> list[float]: ...

    def close(self) -> None: ...


_suites: list[Suites] = []  # of a worker process


def _start(folder: Path, tables: Path, seed: int) -> None:
    _suites.append(Suites(folder, tables, seed))


def _relative(task: Task) -> float:
    return _suites[0].relative(task)


class Processes:
    """`workers` processes of this machine, one thread each."""

    def __init__(self, workers: int, folder: Path, tables: Path, seed: int) -> None:
        for variable in _THREADS:
            os.environ.setdefault(variable, "1")  # threads that wait for each other slow a busy machine
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (folder, tables, seed))

    def map(self, tasks: Sequence[Task]) -> list[float]:
        return list(self._pool.map(_relative, tasks))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class ModelBench:
    """The model in `folder`. Tables made for it are kept in `tables`. ConfigError when the model cannot be used."""

    def __init__(self, folder: Path, tables: Path, seed: int) -> None:
        torch.set_num_threads(1)
        blas.on_one_thread()  # as in the engine's process
        model = BatchedModel(folder)
        self._calibration = calibration = Calibration(model, DEFAULT_CHUNK_TOKENS, seed)
        calibrated = calibration.make(tables)
        self.space, self.published = standard(calibrated), published(calibrated)
        self.fingerprint = model.fingerprint
        self.executor: Executor | None = None
        self.provenance = {
            "dataset": f"held-out text, lookup, copy and recall, seed {seed}",
            "device": platform.processor() or platform.machine(),
            "kernels": native.ISA,
            "chunk_tokens": str(DEFAULT_CHUNK_TOKENS),
            "tables": str(tables),
            "tightwire": __version__,
            "torch": str(torch.__version__),
        }

    def rates(self) -> rates.Rates:
        return rates.measure(self.space, self._calibration.blocks, self._calibration.attention)

    def qualities(self, wanted: Sequence[tuple[Strategy, Sample]]) -> list[float]:
        assert self.executor is not None
        return self.executor.map([(str(strategy), sample) for strategy, sample in wanted])

    def profile(self, strategy: Strategy, quality: float) -> Profile:
        (found,) = measure([strategy], self._calibration.blocks, lambda _: quality)
        return found
