"""A receiver or a sender for a process of its own, to be killed."""

from multiprocessing.connection import Connection

from tests.kv.transfer.blocks import FOUR, LAYERS, make_block
from tightwire.kv.transfer.receiver import Receiver
from tightwire.kv.transfer.sender import Sender

TOKENS = 1280
PIECES = make_block(TOKENS).token_chunks(32)


def receive(bind: str, pipe: Connection) -> None:
    """Says where it listens, then the error of one transfer, then waits to be killed."""
    receiver = Receiver(bind)
    pipe.send(receiver.endpoint)
    pipe.send(receiver.wait("a", 60).error)
    pipe.recv()


def send(endpoint: str, pipe: Connection) -> None:
    """Sends until it is killed."""
    sender = Sender(endpoint)
    sender.send("a", PIECES, FOUR, layers=LAYERS, tokens=TOKENS, timeout_s=60)
