"""The other end of `vllm_process.py`."""

import contextlib
import multiprocessing
import os
import queue
import random
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import tightwire

ROOT = Path(tightwire.__file__).parent
MODEL = ROOT / "kv/refmodel/weights"
_CONTEXT = multiprocessing.get_context("forkserver")


def _child(options: dict[str, Any], connection: Connection, log: str) -> None:
    import vllm_process

    vllm_process.run(options, connection, log)


class Engine:
    """One engine process. Being made it does not wait until it is up: the first command does, or `endpoint`."""

    def __init__(self, log: Path, **options: Any) -> None:
        paths = [str(Path(__file__).parent), str(ROOT.parent), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
        _CONTEXT.set_forkserver_preload(["vllm_process"])
        self.log = log
        self._connection, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(
            target=_child, args=({"model": str(MODEL), **options}, theirs, str(log)), daemon=True
        )
        self.process.start()
        theirs.close()
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._done: dict[str, dict[str, Any]] = {}
        self._endpoint: str | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def endpoint(self) -> str:
        if self._endpoint is None:
            self._endpoint = self._next(200)["endpoint"]
        return self._endpoint

    def add(self, name: str, ids: list[int], count: int, params: dict[str, Any] | None = None) -> None:
        self._tell(add=name, ids=ids, count=count, params=params)

    def wait(self, name: str, timeout_s: float = 100) -> dict[str, Any]:
        """The event that says that the request is done."""
        end_s = time.monotonic() + timeout_s
        while name not in self._done:
            event = self._next(end_s - time.monotonic())
            self._done[event["done"]] = event
        return self._done.pop(name)

    def run(self, ids: list[int], count: int, params: dict[str, Any] | None = None) -> dict[str, Any]:
        name = f"run-{time.monotonic_ns()}"
        self.add(name, ids, count, params)
        return self.wait(name)

    def abort(self, name: str) -> None:
        self._tell(abort=name)

    def ask(self, **command: Any) -> dict[str, Any]:
        """The answer to `forget`, `stats` or `compare`."""
        self._tell(**command)
        while True:
            event = self._next(100)
            if "done" not in event:
                return event
            self._done[event["done"]] = event

    def stats(self) -> dict[str, Any]:
        return self.ask(stats=True)

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self.process.join(20)
        self.process.kill()
        self.process.join()
        self._reader.join(5)
        self._connection.close()

    def _tell(self, **command: Any) -> None:
        assert self.endpoint is not None  # it is up
        self._connection.send(command)

    def _next(self, timeout_s: float) -> dict[str, Any]:
        try:
            event = self._events.get(timeout=max(timeout_s, 0.01))
        except queue.Empty:
            raise AssertionError(f"no answer in time: {self.log.read_text()[-3000:]}") from None
        if event is None:
            raise AssertionError(f"the engine ended: {self.log.read_text()[-3000:]}")
        return event

    def _read(self) -> None:
        while True:
            try:
                self._events.put(self._connection.recv())
            except (EOFError, OSError):
                self._events.put(None)
                return

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def prompt(seed: int, count: int = 300) -> list[int]:
    return random.Random(seed).choices(range(300, 1500), k=count)
