"""H3, a link or a device: where one pair alone has stopped, the other connections of its two ranks may be idle, and say
nothing. Then each of the two reaches for its other peers anew. The one that reaches none of them, while the other end reaches
one of its own, has a broken device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tightwire.ccl.analyzer.stopped import Pair, Stopped
from tightwire.ccl.connections import Connections
from tightwire.ccl.sources.nccl_plugin import ADDRESS

Reach = Callable[[int, list[str]], set[str] | None]  # (a rank, addresses) → which of them answer it; None: not known


def tried(found: Stopped, connections: Connections, reach: Reach) -> Stopped:
    """`found`, with the devices that only show when others are reached for."""
    devices, remarks = set(found.devices), list(found.remarks)
    for pair in found.pairs:
        if not set(pair) & set(found.devices):
            for rank, count in _cut_off(pair, connections, reach):
                devices.add(rank)
                remarks.append(f"rank {rank} reaches none of its {count} other peers either, the other end reaches its own")
    return replace(found, devices=tuple(sorted(devices)), remarks=tuple(remarks))


def _cut_off(pair: Pair, connections: Connections, reach: Reach) -> list[tuple[int, int]]:
    """(rank, peers that it tried) of the end that is cut off, if just one is."""
    peers, answers = [], []
    for rank, other in (pair, pair[::-1]):
        mine = connections[(connections["rank"] == rank) & ~np.isin(connections["peer"], (rank, other))]
        mine = mine[~np.char.startswith(mine["remote"], ADDRESS.encode())]
        _, first = np.unique(mine["peer"], return_index=True)
        addresses = [remote.decode() for remote in mine["remote"][first].tolist()]
        answered = reach(rank, addresses) if addresses else None
        if answered is None:
            return []
        peers.append(len(addresses))
        answers.append(len(answered))
    cut = [index for index in range(2) if not answers[index]]
    return [(pair[cut[0]], peers[cut[0]])] if len(cut) == 1 else []
