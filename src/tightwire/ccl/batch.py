"""Many digests as one set of columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tightwire.ccl.digest import FRAME, KIND, RANK, Digest
from tightwire.ccl.slots import Floats, Ints

Rows = npt.NDArray[np.void]


@dataclass(frozen=True)
class Batch:
    """One digest of each host: rows of `RANK` [R], `FRAME` [F] and `KIND`; `host` and `at_s` [R]; `rank_of` (index into
    ranks) [F]; `calls`, rows of `CALL`, rank by rank, which count frames from `first_frame` [R] on and kinds from
    `first_kind` [R] on."""

    digests: Sequence[Digest]
    ranks: Rows
    host: Ints
    at_s: Floats
    frames: Rows
    rank_of: Ints
    kinds: Rows
    calls: bytes
    first_frame: Ints
    first_kind: Ints


def batches(digests: Sequence[Digest]) -> Iterator[Batch]:
    """In the order of time of each host: no host has two digests in one batch."""
    turns: list[list[Digest]] = []
    told: dict[str, int] = {}
    for digest in sorted(digests, key=lambda each: each.at_s):
        turn = told[digest.host] = told.get(digest.host, -1) + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(digest)
    for turn_of in turns:
        yield _batch(turn_of)


def _batch(digests: Sequence[Digest]) -> Batch:
    ranks = np.frombuffer(b"".join([each.ranks for each in digests]), RANK)
    frames = np.frombuffer(b"".join([each.frames for each in digests]), FRAME)
    kinds = np.frombuffer(b"".join([each.kinds for each in digests]), KIND)
    counts = np.array(
        [(len(each.ranks) // RANK.itemsize, len(each.kinds) // KIND.itemsize) for each in digests], np.int64
    )
    host = np.repeat(np.arange(len(digests)), counts[:, 0])
    at_s = np.array([each.at_s for each in digests])
    rank_of = np.repeat(np.arange(len(ranks)), ranks["frames"])
    first_frame = np.cumsum(ranks["frames"], dtype=np.int64) - ranks["frames"]
    first_kind = np.cumsum(counts[:, 1]) - counts[:, 1]
    return Batch(
        digests, ranks, host, at_s[host], frames, rank_of, kinds, b"".join([each.calls for each in digests]), first_frame,
        first_kind[host],
    )  # fmt: skip
