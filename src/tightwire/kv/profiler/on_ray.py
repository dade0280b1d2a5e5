"""A Ray cluster as the executor of a run: one actor a worker, each with suites of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tightwire.errors import ConfigError
from tightwire.kv.profiler.model import Suites, Task


class Ray:
    """`address` of a cluster whose machines see `folder` and `tables` at the same paths; `local` starts one here."""

    def __init__(self, address: str, workers: int, folder: Path, tables: Path, seed: int) -> None:
        try:
            import ray  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError as error:
            raise ConfigError(f"ray={address!r}: Ray is not installed; pip install tightwire[ray]") from error
        self._ray: Any = ray
        local = {"num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(**local if address == "local" else {"address": address}, log_to_driver=False)
        except ConnectionError as error:
            raise ConfigError(f"ray={address!r}: {error}; give the address of a running cluster, or local") from error
        actor = ray.remote(num_cpus=1)(Suites)
        self._actors = [actor.remote(folder.resolve(), tables.resolve(), seed) for _ in range(workers)]

    def map(self, tasks: Sequence[Task]) -> list[float]:
        pool = self._ray.util.ActorPool(self._actors)
        return [float(found) for found in pool.map(lambda actor, task: actor.relative.remote(task), tasks)]

    def close(self) -> None:
        self._ray.shutdown()
