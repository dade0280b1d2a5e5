"""Many digests as one set of columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tightwire.ccl.digest import CALL, FRAME, KIND, RANK, UNKNOWN, Digest
from tightwire.ccl.slots import Floats, Ints

Rows = npt.NDArray[np.void]


@dataclass(frozen=True)
class Calls:
    """N calls: of which of the batch's frames (`frame`) and kinds (`kind`); seconds of the rank's host's clock, NaN where
    unknown: `entered_s`, `ended_s`, and `own_s` (since the rank's event before)."""

    frame: Ints
    kind: Ints
    sequence: Ints
    entered_s: Floats
    ended_s: Floats
    own_s: Floats
    failed: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """One digest of each host: rows of `RANK` [R], `FRAME` [F] and `KIND`; `host` and `at_s` [R]; `rank_of` (index into
    ranks) [F]; the calls."""

    digests: Sequence[Digest]
    ranks: Rows
    host: Ints
    at_s: Floats
    frames: Rows
    rank_of: Ints
    kinds: Rows
    calls: Calls


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
    calls = np.frombuffer(b"".join([each.calls for each in digests]), CALL)
    kinds = np.frombuffer(b"".join([each.kinds for each in digests]), KIND)
    counts = np.array(
        [(len(each.ranks) // RANK.itemsize, len(each.kinds) // KIND.itemsize) for each in digests], np.int64
    )
    host = np.repeat(np.arange(len(digests)), counts[:, 0])
    at_s = np.array([each.at_s for each in digests])
    rank_of = np.repeat(np.arange(len(ranks)), ranks["frames"])
    of_call = np.repeat(np.arange(len(ranks)), ranks["calls"])
    host_of = host[of_call]
    first_frame = np.cumsum(ranks["frames"], dtype=np.int64) - ranks["frames"]
    first_kind = np.cumsum(counts[:, 1]) - counts[:, 1]
    return Batch(
        digests, ranks, host, at_s[host], frames, rank_of, kinds,
        Calls(
            first_frame[of_call] + calls["frame"], first_kind[host_of] + calls["kind"],
            calls["sequence"].astype(np.int64), *_times(calls, at_s[host_of]), calls["failed"] > 0,
        ),
    )  # fmt: skip


def _times(calls: Rows, at_s: Floats) -> tuple[Floats, Floats, Floats]:
    def known(name: str) -> Floats:
        return np.where(calls[name] == UNKNOWN, np.nan, calls[name] * 1e-6)

    return at_s - calls["entered_us"] * 1e-6, at_s - known("ended_us"), known("own_us")
