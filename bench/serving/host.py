"""The driver's end of one engine process."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

START_TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Answer:
    """When the first token came and when the last, on the machine's monotonic clock; the tokens."""

    first_s: float
    done_s: float
    tokens: list[int]


class Host:
    """A vLLM engine in `namespace` on `cores`. Its log goes to `log`."""

    def __init__(self, log: Path, **options: Any) -> None:
        self._log_path = log
        self._log = log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving.engine", json.dumps(options)], cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=dict(os.environ),
        )  # fmt: skip
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._first: dict[str, float] = {}
        self._done: dict[str, Answer] = {}
        threading.Thread(target=self._read, daemon=True).start()
        self.endpoint: str = self._next(START_TIMEOUT_S)["endpoint"]

    def add(self, name: str, ids: Sequence[int], count: int, params: dict[str, Any] | None = None) -> None:
        self._tell({"add": name, "ids": list(ids), "count": count, "params": params})

    def wait(self, name: str, timeout_s: float = 300.0) -> Answer:
        end_s = time.monotonic() + timeout_s
        while name not in self._done:
            event = self._next(end_s - time.monotonic())
            if "first" in event:
                self._first[event["first"]] = event["at_s"]
            elif "done" in event:
                done = event["done"]
                self._done[done] = Answer(self._first.pop(done, event["at_s"]), event["at_s"], event["tokens"])
        return self._done.pop(name)

    def forget(self) -> None:
        """Drop what the engine's own prefix cache holds. Nothing may run."""
        self._tell({"forget": True})
        self._next(60.0)

    def stats(self) -> dict[str, Any]:
        self._tell({"stats": True})
        found: dict[str, Any] = self._next(60.0)["stats"]
        return found

    def settle(self, quiet_s: float = 0.5, timeout_s: float = 60.0) -> None:
        """Until nothing is written to the store any more. Nothing may run."""
        before, since_s, end_s = -1.0, 0.0, time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            now = self.stats()["tokens_saved"]
            if now != before:
                before, since_s = now, time.monotonic()
            elif now and time.monotonic() - since_s > quiet_s:
                return
            time.sleep(0.05)

    def close(self) -> None:
        if self.process.poll() is None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()

    def _tell(self, command: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def _next(self, timeout_s: float) -> dict[str, Any]:
        event = self._events.get(timeout=max(timeout_s, 0.01))
        if event is None:
            tail = "\n".join(self._log_path.read_text().splitlines()[-15:])
            raise SystemExit(f"an engine ended (exit code {self.process.wait()}); the end of {self._log_path}:\n{tail}")
        return event

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@@"):
                self._events.put(json.loads(line[2:]))
        self._events.put(None)

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
