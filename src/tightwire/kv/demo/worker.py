"""One side of the demo as a process of its own: `python -m tightwire.kv.demo.worker prefill|decode …`"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec
import torch

from tightwire.errors import TightwireError
from tightwire.kv.control.controller import Controller
from tightwire.kv.control.records import Outcome, Request
from tightwire.kv.control.settings import Settings
from tightwire.kv.demo.messages import (
    Calibrate,
    Calibrated,
    Command,
    Connect,
    Decode,
    Decoded,
    Failed,
    Prefill,
    Quit,
    Ready,
    Reply,
    Sent,
)  # fmt: skip
from tightwire.kv.engines.transformers import Engine, assemble
from tightwire.kv.profiles import ProfileLibrary, measure
from tightwire.kv.quality import relative_likelihood
from tightwire.kv.strategy import Strategy
from tightwire.kv.transfer.receiver import Receiver
from tightwire.kv.transfer.sender import DEFAULT_CHUNK_TOKENS, Sender
from tightwire.net import testbed

TRANSFER_TIMEOUT_S = 60.0


class PrefillSide:
    """Prefills, chooses, encodes, sends."""

    def __init__(self, engine: Engine, quality_budget: float) -> None:
        self._engine, self._quality_budget = engine, quality_budget
        self._sender: Sender | None = None
        self._controller: Controller | None = None

    def calibrate(self, command: Calibrate) -> Calibrated:
        chunks = self._engine.prefill(command.prompts[0][:-1]).token_chunks(DEFAULT_CHUNK_TOKENS)
        profiles = measure(
            [Strategy.parse(text) for text in command.strategies],
            chunks,
            lambda strategy: relative_likelihood(self._engine, command.prompts, strategy),
        )
        library = ProfileLibrary(self._engine.fingerprint, profiles, {"measured": "at start-up, on this machine"})
        self._controller = Controller(library, Settings(quality_budget=self._quality_budget))
        return Calibrated(profiles)

    def connect(self, command: Connect) -> Ready:
        if self._sender is not None:
            self._sender.close()
        self._sender = Sender(command.endpoint, fingerprint=self._engine.fingerprint)
        self._sender.probe()
        link = self._sender.link.estimate()
        return Ready(link_bytes_per_s=link.bytes_per_s if link else None)

    def prefill(self, command: Prefill) -> Sent:
        assert self._sender is not None
        start_s = time.monotonic()
        kv = self._engine.prefill(command.ids[:-1])
        prefill_s = time.monotonic() - start_s
        chunks = kv.token_chunks(DEFAULT_CHUNK_TOKENS)
        decision = None
        if command.strategy == "auto":
            assert self._controller is not None
            decision = self._controller.decide(
                Request(kv.raw_bytes, len(chunks), kv.tokens, streamed=False), self._sender.link.estimate()
            )
        strategy = decision.strategy if decision else Strategy.parse(command.strategy)
        report = self._sender.send(
            command.transfer_id, chunks, strategy, layers=kv.layers, tokens=kv.tokens, timeout_s=TRANSFER_TIMEOUT_S
        )
        if decision is not None and self._controller is not None and report.ok:
            self._controller.observe(
                decision,
                Outcome(report.encode_s, report.wire_s, report.decode_s, report.total_s, report.wire_bytes),
            )
        return Sent(
            prefill_s, report.total_s, report.raw_bytes, report.wire_bytes, str(strategy), decision, report.error
        )


class DecodeSide:
    """Receives, decodes, continues; recomputes what did not arrive."""

    def __init__(self, engine: Engine, bind: str) -> None:
        self._engine = engine
        # The demo's link is between two namespaces of this machine.
        self._receiver = Receiver(bind, fingerprint=engine.fingerprint, insecure=True)
        self.endpoint = self._receiver.endpoint

    def decode(self, command: Decode) -> Decoded:
        times: list[float] = []
        kv, error = None, None
        if command.transfer_id is not None:
            received = self._receiver.wait(command.transfer_id, TRANSFER_TIMEOUT_S)
            error = received.error
            if received.ok:
                kv = assemble(received.blocks)
        recomputed = kv is None and command.transfer_id is not None
        if kv is None:  # what is missing or damaged is computed here: it never reaches attention
            kv = self._engine.prefill(command.ids[:-1])
        tokens = self._engine.generate(command.ids, kv, command.count, times.append)
        return Decoded(tokens, times[0], times[-1], recomputed, error)


def serve(prefill: PrefillSide | None, decode: DecodeSide | None) -> None:
    """Answer commands from standard input until Quit or its end."""
    decoder = msgspec.json.Decoder(Command)

    def answer(command: Command) -> Reply:
        match command:
            case Calibrate() if prefill:
                return prefill.calibrate(command)
            case Connect() if prefill:
                return prefill.connect(command)
            case Prefill() if prefill:
                return prefill.prefill(command)
            case Decode() if decode:
                return decode.decode(command)
        return Failed(f"{type(command).__name__} is not for this side")

    _say(Ready(decode.endpoint if decode else None))
    for line in sys.stdin.buffer:
        command = decoder.decode(line)
        if isinstance(command, Quit):
            return
        try:
            _say(answer(command))
        except TightwireError as error:
            _say(Failed(str(error)))


def _say(reply: Reply) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(reply) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("prefill", "decode"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--netns", help="network namespace to enter first")
    parser.add_argument("--bind", default="tcp://127.0.0.1:*")
    parser.add_argument("--quality-budget", type=float, default=0.97)
    arguments = parser.parse_args()
    if arguments.netns:
        testbed.enter(arguments.netns)
    torch.set_num_threads(1)  # one core for each side; and sums in one order, so that both sides agree bit for bit
    engine = Engine(arguments.model)
    if arguments.side == "prefill":
        serve(PrefillSide(engine, arguments.quality_budget), None)
    else:
        serve(None, DecodeSide(engine, arguments.bind))


if __name__ == "__main__":
    main()
