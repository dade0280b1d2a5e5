"""Peers killed and connections broken in the middle of a transfer, at random moments."""

import contextlib
import multiprocessing
import random
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from tests.kv.transfer.blocks import FOUR, LAYERS, joined
from tests.kv.transfer.peer import PIECES, TOKENS, receive, send
from tightwire.errors import LinkError
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.transfer.receiver import Receiver
from tightwire.kv.transfer.sender import Sender
from tightwire.net.ports import free_port
from tightwire.net.shaper import ShapedLink

BYTES_PER_S = 2e6  # a transfer takes about 0.2 s
TIMEOUT_S = 20.0


PROCESSES = multiprocessing.get_context("forkserver")  # one that has imported torch already
PROCESSES.set_forkserver_preload(["tests.kv.transfer.peer"])


@contextlib.contextmanager
def peer(what, address: str) -> Iterator[tuple[multiprocessing.Process, Connection]]:
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=what, args=(address, there), daemon=True)
    process.start()
    there.close()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()
        process.close()
        here.close()


def port_of(endpoint: str) -> int:
    return int(endpoint.rsplit(":", 1)[1])


def break_connections(link: ShapedLink) -> None:
    """As a router does that forgets: both ends see a reset; new connections get through."""
    with link._lock:
        for end in link._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_a_broken_connection_is_made_again_and_nothing_is_missing() -> None:
    moments = random.Random(7)
    expected = joined([decode_block(encode_block(piece, FOUR)) for piece in PIECES])
    receiver = Receiver()
    with ShapedLink(("127.0.0.1", port_of(receiver.endpoint)), BYTES_PER_S) as link:
        sender = Sender(f"tcp://127.0.0.1:{link.port}")
        sender.probe()
        for run in range(20):
            breaker = threading.Timer(moments.uniform(0, 0.25), break_connections, (link,))
            breaker.start()
            report = sender.send(f"t{run}", PIECES, FOUR, layers=LAYERS, tokens=TOKENS, timeout_s=TIMEOUT_S)
            got = receiver.wait(f"t{run}", TIMEOUT_S)
            breaker.join()
            assert report.ok
            assert got.ok
            assert len(got.blocks) == len(PIECES)  # nothing twice
            assert joined(got.blocks).k.equal(expected.k)
        sender.close()
    assert receiver.buffered_bytes == receiver.queued_bytes == 0
    receiver.close()


def test_a_killed_sender_leaves_nothing_behind() -> None:
    moments = random.Random(8)
    receiver = Receiver()
    with ShapedLink(("127.0.0.1", port_of(receiver.endpoint)), BYTES_PER_S) as link:
        for _ in range(6):
            with peer(send, f"tcp://127.0.0.1:{link.port}") as (process, _pipe):
                started = threading.Event()
                results = []
                waiter = threading.Thread(
                    target=lambda out=results, seen=started: out.append(
                        receiver.wait("a", TIMEOUT_S, lambda block: seen.set())
                    )
                )
                waiter.start()
                assert started.wait(TIMEOUT_S)
                time.sleep(moments.uniform(0, 0.1))
                process.kill()
                waiter.join(TIMEOUT_S / 2)  # long before the timeout
                assert "lost" in results[0].error
                assert results[0].missing
                assert receiver.buffered_bytes == receiver.queued_bytes == 0
    receiver.close()


def test_a_killed_receiver_that_comes_back_gets_the_transfer_or_it_fails_at_once() -> None:
    moments = random.Random(9)
    bind = f"tcp://127.0.0.1:{free_port()}"
    sender, outcomes = Sender(bind), []
    for _ in range(15):
        with peer(receive, bind) as (_process, pipe):
            assert pipe.poll(TIMEOUT_S)
            outgoing = sender.start("a", FOUR, layers=LAYERS, tokens=TOKENS, timeout_s=TIMEOUT_S)
            outgoing.put(PIECES[0])
            time.sleep(moments.uniform(0, 0.02))
        with peer(receive, bind) as (_process, pipe):
            assert pipe.poll(TIMEOUT_S)
            start_s = time.monotonic()
            try:
                for piece in PIECES[1:]:
                    outgoing.put(piece)
                outcomes.append(outgoing.finish(TIMEOUT_S).error)
            except LinkError as error:
                outcomes.append(str(error))
            assert time.monotonic() - start_s < TIMEOUT_S / 2
            if outcomes[-1] is None:
                assert pipe.recv() == bind
                assert pipe.recv() is None
    assert all(outcome is None or "restarted" in outcome for outcome in outcomes), outcomes
    sender.close()


def test_a_receiver_that_stays_away_is_a_timeout() -> None:
    with peer(receive, "tcp://127.0.0.1:*") as (process, pipe):
        sender = Sender(pipe.recv())
        sender.probe()
        outgoing = sender.start("a", FOUR, layers=LAYERS, tokens=TOKENS, timeout_s=0.5)
        process.kill()
        process.join()
        outgoing.put(PIECES[0])
        with pytest.raises(LinkError, match=r"did not come back|gave no sign"):
            outgoing.finish(5.0)
        assert outgoing.held_bytes == 0
        sender.close()
