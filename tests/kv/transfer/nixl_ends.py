"""Two processes and NIXL between them: python -m tests.kv.transfer.nixl_ends CASE. Prints what became of it as JSON.

UCX reads its variables when it starts, so both ends are processes of this one: UCX_TLS=tcp UCX_NET_DEVICES=lo.
"""

import json
import multiprocessing
import sys
from multiprocessing.connection import Connection

import torch

from tests.kv.transfer.blocks import FOUR, LAYERS, make_block
from tightwire.errors import LinkError
from tightwire.kv.strategy import RAW
from tightwire.kv.transfer.receiver import Receiver
from tightwire.kv.transfer.sender import Sender

TOKENS = 512
BLOCK = make_block(TOKENS)


def receive(pipe: Connection, bind: str, with_nixl: bool) -> None:
    receiver = Receiver(bind, nixl=with_nixl)
    pipe.send(receiver.endpoint)
    for _ in range(2):
        got = receiver.wait("a", 60)
        same = all(
            torch.equal(block.k, BLOCK.k[:, :, block.token_start : block.token_start + block.tokens]) for block in got.blocks
        )
        written = receiver._landing.frames if receiver._landing else 0
        pipe.send({"error": got.error, "missing": got.missing, "same": same, "written": written, "blocks": len(got.blocks)})
    receiver.close()


def main(case: str) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=receive, args=(theirs, "tcp://127.0.0.1:*", case != "no memory"), daemon=True)
    process.start()
    endpoint = ours.recv()
    sender = Sender(endpoint, nixl=True)
    sender.probe()
    told = {}
    pieces = BLOCK.token_chunks(64)
    if case == "killed":
        outgoing = sender.start("a", RAW, layers=LAYERS, tokens=TOKENS, timeout_s=3)
        outgoing.put(pieces[0])
        process.kill()
        process.join()
        try:
            for piece in pieces[1:]:
                outgoing.put(piece)
            told["first"] = outgoing.finish(10).error
        except LinkError as error:
            told["first"] = str(error)
        process = context.Process(target=receive, args=(theirs, endpoint, True), daemon=True)
        process.start()
        ours.recv()
    for name, strategy in (("raw", RAW), ("four", FOUR)):
        report = sender.send("a", pieces, strategy, layers=LAYERS, tokens=TOKENS, timeout_s=30)
        told[name] = {"sent": report.error, **ours.recv()}
    sender.close()
    process.join(10)
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
