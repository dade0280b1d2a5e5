"""The router before two of vLLM's own HTTP servers, as docs/vllm.md starts them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tightwire.kv import refmodel
from tightwire.net.ports import free_port

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
START_S = 240.0
ENV = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
PROMPT = "we walked along the river and saw the houses of the old town. " * 20


@contextlib.contextmanager
def running(log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=ENV, start_new_session=True)
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def server(log: Path, port: int, role: str, extra: dict[str, str]) -> contextlib.AbstractContextManager[Any]:
    transfer = {
        "kv_connector": "TightwireConnector", "kv_connector_module_path": "tightwire.kv.engines.vllm", "kv_role": role,
        "kv_load_failure_policy": "recompute", "kv_connector_extra_config": extra,
    }  # fmt: skip
    return running(
        log, sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(refmodel.path()),
        "--served-model-name", "ref", "--port", str(port), "--enforce-eager", "--kv-transfer-config", json.dumps(transfer),
    )  # fmt: skip


def get(url: str, body: dict[str, object] | None = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        assert process.poll() is None, log.read_text()[-2000:]
        with contextlib.suppress(urllib.error.URLError, OSError):
            get(url)
            return
        time.sleep(0.5)
    raise AssertionError(f"{url} did not answer: {log.read_text()[-2000:]}")


def text(url: str, prompt: str) -> str:
    body = {"model": "ref", "prompt": prompt, "max_tokens": 12, "temperature": 0}
    return str(json.loads(get(f"{url}/v1/completions", body))["choices"][0]["text"])


def loaded(url: str) -> float:
    lines = get(f"{url}/metrics").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("tightwire_kv_tokens_loaded_total{"))


def test_answers_through_the_router_are_those_of_one_server_even_without_prefill(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    here = "http://127.0.0.1"
    prefill, decode, router, kv = (free_port() for _ in range(4))
    logs = {name: tmp_path / f"{name}.log" for name in ("prefill", "decode", "router")}
    with contextlib.ExitStack() as stack:
        bind = {"bind": f"tcp://127.0.0.1:{kv}"}
        taking = stack.enter_context(server(logs["decode"], decode, "kv_consumer", bind))
        endpoint = {"endpoint": f"tcp://127.0.0.1:{kv}"}
        giving = stack.enter_context(server(logs["prefill"], prefill, "kv_producer", endpoint))
        command = str(Path(sys.executable).with_name("tightwire"))
        hosts = ("--prefill", f"{here}:{prefill}", "--decode", f"{here}:{decode}", "--port", str(router))
        between = stack.enter_context(running(logs["router"], command, "kv", "router", *hosts))
        wait_for(f"{here}:{decode}/health", taking, logs["decode"])
        wait_for(f"{here}:{prefill}/health", giving, logs["prefill"])
        wait_for(f"{here}:{router}/v1/models", between, logs["router"])
        answer = text(f"{here}:{router}", PROMPT)
        assert loaded(f"{here}:{decode}") > 100
        assert answer == text(f"{here}:{prefill}", PROMPT)
        os.killpg(giving.pid, signal.SIGKILL)
        again = text(f"{here}:{router}", "Again, " + PROMPT)
        assert again == text(f"{here}:{decode}", "Again, " + PROMPT)
