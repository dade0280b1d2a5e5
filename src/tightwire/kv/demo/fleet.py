"""Starts the two workers on two ends of a link of settable speed, and passes commands to them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from tightwire.errors import LinkError
from tightwire.kv.demo.messages import Command, Connect, Failed, Quit, Ready, Reply
from tightwire.net import testbed
from tightwire.net.shaper import ShapedLink

_REPLIES = msgspec.json.Decoder(Reply)
_PORT = 5557


class Link(Protocol):
    def set_rate(self, bytes_per_s: float | None) -> None: ...


class Worker:
    """A worker process; `ask` sends a command and waits for the reply, `tell` and `reply` do it in two steps."""

    def __init__(self, side: str, *arguments: str) -> None:
        self._side = side
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tightwire.kv.demo.worker", side, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        )  # fmt: skip
        self.pid = self._process.pid

    def tell(self, command: Command) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        self._process.stdin.flush()

    def reply(self) -> Reply:
        """Raises LinkError when the worker failed or is gone."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LinkError(f"the {self._side} worker ended with status {self._process.wait()}; see its message above")
        reply: Reply = _REPLIES.decode(line)
        if isinstance(reply, Failed):
            raise LinkError(f"{self._side} worker: {reply.error}")
        return reply

    def ask(self, command: Command) -> Reply:
        self.tell(command)
        return self.reply()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.tell(Quit())
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class Fleet:
    """`prefill` and `decode` workers; `set_rate` shapes the link between them and lets the sender learn it anew."""

    def __init__(self, prefill: Worker, decode: Worker, link: Link, endpoint: str, kind: str) -> None:
        self.prefill, self.decode, self.kind = prefill, decode, kind
        self._link, self._endpoint = link, endpoint

    def set_rate(self, bytes_per_s: float | None) -> float:
        """Bytes per second that the sender measures on the link afterwards."""
        self._link.set_rate(bytes_per_s)
        ready = self.prefill.ask(Connect(self._endpoint))
        assert isinstance(ready, Ready)
        assert ready.link_bytes_per_s is not None
        return ready.link_bytes_per_s


@contextlib.contextmanager
def start(model: Path, quality_budget: float = 0.97, userspace: bool = False) -> Iterator[Fleet]:
    """Two workers on a shaped link: network namespaces where they can be made, a user-space relay elsewhere."""
    why_not = "asked for" if userspace else testbed.available()
    common = ("--model", str(model))
    budget = ("--quality-budget", str(quality_budget))
    with contextlib.ExitStack() as stack:

        def worker(side: str, *arguments: str) -> Worker:
            made = Worker(side, *common, *arguments)
            stack.callback(made.close)
            return made

        if why_not is None:
            bed = stack.enter_context(testbed.Testbed())
            bind = f"tcp://{bed.receiver_address}:{_PORT}"
            decode = worker("decode", "--netns", bed.receiver, "--bind", bind)
            prefill = worker("prefill", "--netns", bed.sender, *budget)
            _ready(prefill), _ready(decode)
            yield Fleet(prefill, decode, bed, bind, "network namespaces, veth pair, token bucket")
        else:
            decode, prefill = worker("decode"), worker("prefill", *budget)
            endpoint = _ready(decode).endpoint
            _ready(prefill)
            assert endpoint is not None
            relay = stack.enter_context(ShapedLink(("127.0.0.1", int(endpoint.rsplit(":", 1)[1])), None))
            kind = f"user-space relay ({why_not})"
            yield Fleet(prefill, decode, relay, f"tcp://127.0.0.1:{relay.port}", kind)


def _ready(worker: Worker) -> Ready:
    reply = worker.reply()
    assert isinstance(reply, Ready)
    return reply
