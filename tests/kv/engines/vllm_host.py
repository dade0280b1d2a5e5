"""The other end of `vllm_process.py`."""

import contextlib
import json
import os
import queue
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import tightwire

ROOT = Path(tightwire.__file__).parent
MODEL = ROOT / "kv/refmodel/weights"


class Engine:
    """One engine process. `start` does not wait until it is up: the first command does, or `endpoint`."""

    def __init__(self, log: Path, **options: Any) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")]),
        }
        self.log = log
        self._stderr = log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("vllm_process.py")), json.dumps({"model": str(MODEL), **options})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True, env=environment,
        )  # fmt: skip
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

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        self.process.stdout.close()
        self._stderr.close()

    def _tell(self, **command: Any) -> None:
        assert self.endpoint is not None  # it is up
        assert self.process.stdin is not None
        print(json.dumps(command), file=self.process.stdin, flush=True)

    def _next(self, timeout_s: float) -> dict[str, Any]:
        try:
            event = self._events.get(timeout=max(timeout_s, 0.01))
        except queue.Empty:
            raise AssertionError(f"no answer in time: {self.log.read_text()[-3000:]}") from None
        if event is None:
            raise AssertionError(f"the engine ended: {self.log.read_text()[-3000:]}")
        return event

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@@"):
                self._events.put(json.loads(line[2:]))
            else:
                self._stderr.write(line)
        self._events.put(None)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def prompt(seed: int, count: int = 300) -> list[int]:
    return random.Random(seed).choices(range(300, 1500), k=count)
