"""One pair stands still, all else is idle: whether a link or a device is broken shows when other peers are reached for."""

from typing import cast

import pytest

from tightwire.ccl.analyzer.reach import tried
from tightwire.ccl.analyzer.stopped import Stopped
from tightwire.ccl.analyzer.wait_for import Waiting
from tightwire.ccl.connections import columns
from tightwire.ccl.inet_diag import Socket
from tightwire.ccl.transport import Connection

ALL = {0: {"1", "2", "3"}, 1: {"0", "2", "3"}}
FOUND = Stopped(cast(Waiting, None), ((0, 1),), (), (), 0.0)
CONNECTIONS = columns(
    [Connection(a, b, Socket(0, f"{a}", f"{b}", 0, False, 0)) for a in range(4) for b in range(4) if a != b]
    + [Connection(0, 0, Socket(0, "0", "0", 0, False, 0))]
)


@pytest.mark.parametrize(
    ("answers", "devices"),
    [
        (ALL, ()),
        (ALL | {1: set()}, (1,)),
        (ALL | {0: set()}, (0,)),
        (ALL | {1: {"3"}}, ()),
        ({0: set(), 1: set()}, ()),  # something else: a firewall
        ({0: None, 1: set()}, ()),
    ],
)
def test_the_end_that_reaches_nobody_has_a_broken_device(answers: dict[int, set[str] | None], devices: tuple) -> None:
    asked = []

    def reach(rank: int, addresses: list[str]) -> set[str] | None:
        asked.append((rank, addresses))
        answered = answers[rank]
        return None if answered is None else answered & set(addresses)

    found = tried(FOUND, CONNECTIONS, reach)
    assert (found.pairs, found.devices) == (((0, 1),), devices)
    assert len(found.remarks) == len(devices)
    assert asked[0] == (0, ["2", "3"])


def test_without_other_peers_nothing_is_tried() -> None:
    assert tried(FOUND, CONNECTIONS[:0], lambda *_: 1 / 0) == FOUND
