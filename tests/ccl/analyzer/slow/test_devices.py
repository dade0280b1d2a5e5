"""Whose device it is that makes one pair slow: its sender's, or its receiver's that receives much from nobody else."""

import numpy as np
import pytest

from tightwire.ccl.analyzer.slow import links

MB = 1e6
SENT = {(0, 1): 1 * MB, (0, 3): 10 * MB, (1, 2): 10 * MB, (2, 1): 10 * MB, (2, 3): 1 * MB, (3, 1): 1 * MB}
Changed = dict[tuple[int, int], tuple[float, ...]]  # rate, round trip, how much longer the bytes were under way


def flows(changed: Changed) -> links.Flows:
    """What each pair sent; at 100 MB/s with a round trip of 0.2 ms, where `changed` does not give both; what is slower has a queue."""
    rate, rtt_s, longer_s = np.array([(*changed.get(pair, (100 * MB, 0.0002)), 0.0)[:3] for pair in SENT]).T
    rank, peer = np.array(list(SENT)).T
    sent, none = np.array(list(SENT.values())), np.zeros(len(SENT))
    return links.Flows(rank, peer, sent, sent / rate + longer_s, none, rtt_s, rate, np.where(rate < 100 * MB, 0.5, 0.0))


@pytest.mark.parametrize(
    ("beside", "devices"),
    [
        ({}, ()),  # the link itself
        ({(3, 1): (100 * MB, 0.006, 1.5)}, (3,)),  # the answers to what it sends come late
        ({(3, 1): (100 * MB, 0.006, 1.0)}, ()),  # now and then only
        ({(2, 3): (6 * MB, 0.0002)}, (3,)),  # what others send it goes slowly as well
        ({(0, 1): (6 * MB, 0.0002)}, (0,)),
        ({(0, 1): (6 * MB, 0.0002), (2, 3): (6 * MB, 0.0002)}, (0,)),  # the sender's is told first
        ({(1, 2): (100 * MB, 0.006, 1.5)}, ()),
    ],
)
def test_the_end_whose_other_packets_suffer_has_the_slow_device(beside: Changed, devices: tuple[int, ...]) -> None:
    found = links.find(flows({}), flows({(0, 3): (5 * MB, 0.01), **beside}))
    assert (found.pairs, found.devices) == (((0, 3),), devices)

