"""What happens when a verdict stands: a webhook, a command, a metric. None of them can hold up or break the watching."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tightwire.ccl.verdict import Verdict
from tightwire.errors import ConfigError

TIMEOUT_S = 10.0
Action = Callable[[Verdict], None]


class Webhook:
    """POSTs the verdict as JSON; `text` in it is a sentence, which chat services show. Raises ConfigError for an address that is
    none."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"webhook={url!r} is no address; give one like https://host/path")
        self._url = url

    def __call__(self, verdict: Verdict) -> None:
        body = msgspec.json.encode({"text": sentence(verdict), "verdict": msgspec.to_builtins(verdict)})
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            pass


class Command:
    """Runs a command line, the verdict as JSON on its standard input."""

    def __init__(self, line: str) -> None:
        if not line.strip():
            raise ConfigError("exec is empty; give a command line, like 'notify-oncall --urgent'")
        self._line = line

    def __call__(self, verdict: Verdict) -> None:
        done = subprocess.run(
            ["/bin/sh", "-c", self._line],
            input=msgspec.json.encode(verdict),
            timeout=TIMEOUT_S,
            check=False,
            capture_output=True,
        )
        if done.returncode != 0:
            raise OSError(f"{self._line!r} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")


class Metrics:
    """Serves Prometheus metrics at `address` (`host:port`, loopback unless a host is named). Raises ConfigError where that
    cannot be."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise ConfigError(
                f"metrics={address!r}: prometheus_client is missing; pip install tightwire[metrics]"
            ) from error
        registry = prometheus.CollectorRegistry()
        self._verdicts: Any = prometheus.Counter(
            "tightwire_ccl_verdicts", "Verdicts since the start, by class", ["class"], registry=registry
        )
        self._guilty: Any = prometheus.Gauge(
            "tightwire_ccl_guilty_rank",
            "1 for each rank that the newest verdict names, until it is over",
            ["rank", "class"],
            registry=registry,
        )
        self._seconds: Any = prometheus.Gauge(
            "tightwire_ccl_time_to_verdict_seconds",
            "Of the newest verdict, since the job was last seen to move",
            registry=registry,
        )
        try:
            self._server, self._thread = prometheus.start_http_server(int(port), host or "127.0.0.1", registry)
        except (ValueError, OverflowError, OSError) as error:
            raise ConfigError(f"metrics={address!r}: {error}; give host:port, like 127.0.0.1:9464") from error
        self.port: int = self._server.server_port

    def __call__(self, verdict: Verdict) -> None:
        self._verdicts.labels(verdict.anomaly).inc()
        self._guilty.clear()
        for rank in verdict.guilty_ranks if verdict.ended_s is None else []:
            self._guilty.labels(str(rank), verdict.anomaly).set(1)
        self._seconds.set(verdict.time_to_verdict_s)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Actions:
    """Runs all of them for each verdict, each in a thread of its own; what goes wrong is said and does no harm."""

    def __init__(
        self, actions: Sequence[Action], say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
    ) -> None:
        self._actions, self._say = list(actions), say
        self._threads: list[threading.Thread] = []

    def __call__(self, verdict: Verdict) -> None:
        for action in self._actions:
            thread = threading.Thread(target=self._run, args=(action, verdict), name="tightwire-action", daemon=True)
            self._threads.append(thread)
            thread.start()

    def wait(self) -> None:
        """Until all are done, or their time is over."""
        for thread in self._threads:
            thread.join(TIMEOUT_S + 1)
        self._threads.clear()

    def _run(self, action: Action, verdict: Verdict) -> None:
        try:
            action(verdict)
        except (OSError, ValueError, subprocess.SubprocessError, urllib.error.URLError) as error:
            self._say(f"tightwire: {type(action).__name__.lower()} failed: {error}")


def sentence(verdict: Verdict) -> str:
    """The verdict in one line."""
    return f"{verdict.anomaly}, {verdict.confidence} confidence: {verdict.who}: {verdict.cause}"
