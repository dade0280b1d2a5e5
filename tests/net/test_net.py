import socket
import threading
import time

import pytest

from tightwire.core.clock import FakeClock
from tightwire.net import testbed
from tightwire.net.estimator import LinkEstimator
from tightwire.net.shaper import ShapedLink, TokenBucket


def test_estimator_knows_nothing_at_first_and_follows_a_step() -> None:
    link = LinkEstimator()
    assert link.estimate() is None
    for _ in range(5):
        link.observe(1_000_000, 1.0)
    assert link.estimate().bytes_per_s == pytest.approx(1e6)
    for _ in range(8):
        link.observe(1_000_000, 0.1)
    assert link.estimate().bytes_per_s == pytest.approx(1e7, rel=0.8)
    link.observe(0, 1.0)
    assert link.estimate().observations == 13


def test_token_bucket_holds_the_rate_on_a_fake_clock() -> None:
    clock = FakeClock()
    bucket = TokenBucket(1000.0, burst_bytes=100, clock=clock)
    for _ in range(50):
        bucket.take(100)
    assert clock.now_s() == pytest.approx((50 * 100 - 100) / 1000.0)


def test_shaped_link_relays_unchanged_at_its_rate() -> None:
    data = bytes(range(256)) * 800
    server = socket.create_server(("127.0.0.1", 0))
    got = bytearray()

    def sink() -> None:
        with server.accept()[0] as peer:
            while piece := peer.recv(65536):
                got.extend(piece)
            peer.sendall(b"done")

    thread = threading.Thread(target=sink)
    thread.start()
    with ShapedLink(("127.0.0.1", server.getsockname()[1]), 400_000.0) as link:
        start_s = time.monotonic()
        with socket.create_connection(("127.0.0.1", link.port)) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(16) == b"done"
        took_s = time.monotonic() - start_s
    thread.join()
    server.close()
    assert bytes(got) == data
    assert took_s > 0.3  # 204,800 bytes less the burst at 400 kB/s: it was held back


def test_testbed_has_a_rate_and_cleans_up() -> None:
    why_not = testbed.available()
    if why_not is not None:
        pytest.skip(why_not)
    from pyroute2 import netns

    before = set(netns.listnetns())
    with testbed.Testbed() as bed:
        assert {bed.sender, bed.receiver} <= set(netns.listnetns())
        bed.set_rate(1e6)
        bed.set_rate(2e6)
        bed.set_rate(None)
    assert set(netns.listnetns()) == before
