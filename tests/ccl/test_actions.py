"""Webhook, command and metrics, each against the real thing."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest

from tightwire.ccl.actions import Actions, Command, Metrics, Webhook
from tightwire.ccl.verdict import Verdict
from tightwire.errors import ConfigError

VERDICT = Verdict(
    anomaly="H1", guilty_ranks=[2, 5], confidence="high", cause="stopped", group="0", operation="allreduce", sequence=5,
    waiting_ranks=[0, 1], evidence=["rank 2 is stopped"], since_s=40.0, at_s=42.5,
)  # fmt: skip


class Server(HTTPServer):
    """Keeps what is posted; answers with `status`."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posted: list[bytes] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(*actions: object) -> list[str]:
    said: list[str] = []
    all_of_them = Actions(actions, said.append)  # type: ignore[arg-type]
    all_of_them(VERDICT)
    all_of_them.wait()
    return said


def test_a_webhook_gets_the_verdict_and_a_sentence(server: Server) -> None:
    assert run(Webhook(f"http://127.0.0.1:{server.server_port}/hook")) == []
    (body,) = server.posted
    told = json.loads(body)
    assert told["text"] == "H1, high confidence: rank 2, 5: stopped"
    assert told["verdict"]["class"] == "H1"
    assert told["verdict"]["guilty_ranks"] == [2, 5]


def test_a_webhook_that_refuses_or_is_not_there_is_only_said(server: Server) -> None:
    server.status = 500
    (said,) = run(Webhook(f"http://127.0.0.1:{server.server_port}/hook"))
    assert "webhook failed" in said
    (said,) = run(Webhook("http://127.0.0.1:1/hook"))
    assert "webhook failed" in said


def test_a_command_reads_the_verdict(tmp_path: Path) -> None:
    assert run(Command(f"cat > {tmp_path / 'told'}")) == []
    assert json.loads((tmp_path / "told").read_text())["cause"] == "stopped"


def test_a_command_that_fails_is_said_and_the_others_run(tmp_path: Path) -> None:
    said = run(Command("echo no luck >&2; exit 4"), Command(f"touch {tmp_path / 'ran'}"))
    assert len(said) == 1
    assert "ended with 4: no luck" in said[0]
    assert (tmp_path / "ran").exists()


def changed(**fields: object) -> Verdict:
    return msgspec.structs.replace(VERDICT, **fields)


def scraped(metrics: Metrics) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics") as answer:
        return str(answer.read().decode())


def test_metrics_name_the_guilty_and_forget_the_former() -> None:
    pytest.importorskip("prometheus_client")
    metrics = Metrics("127.0.0.1:0")
    try:
        metrics(VERDICT)
        metrics(changed(guilty_ranks=[7]))
        text = scraped(metrics)
        metrics(changed(guilty_ranks=[7], ended_s=50.0))
        assert "tightwire_ccl_guilty_rank{" not in scraped(metrics)
    finally:
        metrics.close()
    assert 'tightwire_ccl_verdicts_total{class="H1"} 2.0' in text
    assert 'tightwire_ccl_guilty_rank{class="H1",rank="7"} 1.0' in text
    assert 'rank="2"' not in text
    assert "tightwire_ccl_time_to_verdict_seconds 2.5" in text


@pytest.mark.parametrize("make", [lambda: Webhook("host/path"), lambda: Command(" "), lambda: Metrics("9464x")])
def test_bad_settings_name_themselves(make: object) -> None:
    with pytest.raises(ConfigError, match="give"):
        make()  # type: ignore[operator]
