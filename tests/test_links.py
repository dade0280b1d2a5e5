"""A verdict of ccl about a link reaches kv's controller: a prefill worker's own sockets over a link that slows and stalls."""

import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from tightwire.ccl import transfers
from tightwire.kv.control.log import read
from tightwire.kv.engines.vllm.layout import KV_LAST
from tightwire.kv.engines.vllm.plan import Options, Plan, Push
from tightwire.kv.engines.vllm.settings import Settings
from tightwire.kv.engines.vllm.worker import Worker
from tightwire.kv.profiles import Profile, ProfileLibrary
from tightwire.kv.transfer.receiver import Receiver
from tightwire.net import testbed

pytestmark = pytest.mark.timeout(180)
LAYERS, HEADS, DIM, BLOCK, TOKENS = 4, 8, 64, 128, 4096
LOSSY = "hadamard+uniform:levels=16,axis=group,group=32+pack"
LIBRARY = ProfileLibrary("m", [Profile("raw", 1.0, 1e9, 1e9, 1.0), Profile(LOSSY, 3.5, 1e8, 1e8, 0.99)], {})
NAMES = ("first", "second", "slowed", "stalled", "refused", "again")


def receive(bed: testbed.Testbed, pipe: Connection) -> None:
    testbed.enter(bed.receiver)
    receiver = Receiver(f"tcp://{bed.receiver_address}:*", insecure=True)
    for name in NAMES:
        threading.Thread(target=receiver.wait, args=(name, 120.0, lambda block: None), daemon=True).start()
    pipe.send(receiver.endpoint)
    pipe.recv()


def send(bed: testbed.Testbed, endpoint: str, folder: Path, pipe: Connection) -> None:
    """A prefill worker without an engine; answers with the states of the link and the worker's counts."""
    testbed.enter(bed.sender)
    assert transfers.TransferWatch is not None  # registered, also where the package's entry points are not installed
    settings = Settings(
        "kv_producer", endpoint=endpoint, strategy="auto", library=str(folder / "library.json"),
        decisions=str(folder / "log"), timeout_s=60.0,
    )  # fmt: skip
    worker = Worker(settings, "model")
    memory = {f"layer.{i}": torch.randn(TOKENS // BLOCK, HEADS, BLOCK, 2 * DIM).bfloat16() for i in range(LAYERS)}
    worker.register(KV_LAST, memory)
    link = worker._watch._links[0]  # type: ignore[union-attr]
    ids = tuple(range(TOKENS // BLOCK))
    while (name := pipe.recv()) is not None:
        if name:
            worker.begin(Plan(pushes=[Push(name, name, ids, 0, TOKENS, TOKENS, 0, Options())], scheduled=TOKENS))
            for layer in memory:
                worker.computed(layer)
            worker.end()
        pipe.send({"state": link.state, **worker.stats()})
    worker.close()


class Prefill:
    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def ask(self, name: str = "") -> dict[str, Any]:
        self._pipe.send(name)
        assert self._pipe.poll(30)
        found: dict[str, Any] = self._pipe.recv()
        return found

    def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float) -> float:
        start_s = time.monotonic()
        while not condition(found := self.ask()):
            assert time.monotonic() - start_s < seconds, found
            time.sleep(0.1)
        return time.monotonic() - start_s


def cut(bed: testbed.Testbed, *, down: bool) -> None:
    from pyroute2 import NetNS

    with NetNS(bed.receiver) as ip:
        index = next(link["index"] for link in ip.get_links() if link.get_attr("IFLA_IFNAME") != "lo")
        ip.link("set", index=index, state="down" if down else "up")


def test_slow_and_hung_links_reach_the_controller(tmp_path: Path) -> None:
    if (why_not := testbed.available()) is not None:
        pytest.skip(why_not)
    LIBRARY.save(tmp_path / "library.json")
    context = get_context("spawn")
    with testbed.Testbed() as bed:
        pipes = [context.Pipe() for _ in range(2)]
        bed.set_rate(2e6)
        receiver = context.Process(target=receive, args=(bed, pipes[0][1]), daemon=True)
        receiver.start()
        assert pipes[0][0].poll(60)
        sender = context.Process(target=send, args=(bed, pipes[0][0].recv(), tmp_path, pipes[1][1]), daemon=True)
        sender.start()
        prefill = Prefill(pipes[1][0])
        try:
            follow(bed, prefill, tmp_path / "log")
        finally:
            pipes[1][0].send(None)
            pipes[0][0].send(None)
            for process in (sender, receiver):
                process.join(10)
                process.kill()


def follow(bed: testbed.Testbed, prefill: Prefill, log: Path) -> None:
    for number, name in enumerate(("first", "second"), start=1):
        prefill.ask(name)
        prefill.until(lambda found, number=number: found["sends"] == number, 30)
    assert prefill.ask()["state"] == "healthy"

    prefill.ask("slowed")
    time.sleep(0.3)
    bed.set_rate(2e5)
    prefill.until(lambda found: found["state"] == "slow", 15)
    bed.set_rate(2e6)
    prefill.until(lambda found: found["state"] == "healthy" and found["sends"] == 3, 40)

    prefill.ask("stalled")
    time.sleep(0.3)
    cut(bed, down=True)
    prefill.until(lambda found: found["state"] == "hung", 15)
    prefill.ask("refused")  # at once: nobody waits for its time limit
    prefill.until(lambda found: found["sends_failed"] >= 1, 2)
    (refused,) = [each.decision for each in read(log) if not each.decision.send]
    assert "said to be dead" in refused.reason

    cut(bed, down=False)
    prefill.until(lambda found: found["state"] == "healthy", 40)
    done = prefill.ask()["sends"]
    prefill.ask("again")
    prefill.until(lambda found: found["sends"] > done, 30)
    assert read(log)[-1].decision.send
