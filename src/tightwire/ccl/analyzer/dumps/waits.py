"""Who waits for whom, from aligned dumps.

| edge | r waits for q when |
|---|---|
| missing | q has not entered the operation in which r waits, or posted the other half of its send or receive |
| behind | r completed an operation that needs everybody, and q's account of it stands still |
| unstarted | r's part of an operation runs, q has enqueued its own as its next and it does not start |
| no dump | everybody else entered, and q left no dump |
"""

from __future__ import annotations

from dataclasses import dataclass

from tightwire.ccl.analyzer.dumps.alignment import Group, Job, Position
from tightwire.ccl.sources.flight_recorder.dump import Entry

_ONE_WAY = ("broadcast", "reduce", "gather", "scatter", "send", "recv")  # some may leave before others have come


@dataclass(frozen=True, slots=True)
class Wait:
    """`rank` waits in `operation`, number `sequence` of `group`. `pair`: the other rank of a send or receive. `head`: it
    is the oldest thing that the rank has not finished. `silent`: its members without a dump."""

    rank: int
    group: Group
    sequence: int
    operation: str
    pair: int | None
    head: bool
    created_ns: int
    missing: tuple[int, ...]
    behind: tuple[int, ...]
    unstarted: tuple[int, ...]
    silent: tuple[int, ...]

    @property
    def targets(self) -> tuple[int, ...]:
        known = self.missing + self.behind + self.unstarted
        return known or self.silent


def find(job: Job) -> list[Wait]:
    """All waits of all ranks."""
    heads = {rank: _head(job, rank) for rank in job.dumps}
    waits = []
    for group, of in job.positions.items():
        silent = tuple(q for q in group.ranks if q not in job.dumps)
        for rank, position in of.items():
            waits += _pairs(job, group, rank, position, heads[rank], silent)
            sequence = position.open
            behind = _behind(of, rank, position)
            if sequence is None and not behind:
                continue
            sequence = min((of[q].open or 0 for q in behind), default=0) if sequence is None else sequence
            entry = position.entry(sequence)
            known = next((e for p in of.values() if (e := p.entry(sequence)) is not None), None)
            shown = entry or known
            missing = tuple(q for q in group.ranks if q in of and q != rank and _missing(job, q, of[q], sequence, shown))
            waits.append(
                Wait(
                    rank,
                    group,
                    sequence,
                    shown.op if shown else "",
                    None,
                    (entry is not None and entry is heads[rank]) or heads[rank] is None,
                    shown.created_ns if shown else 0,
                    missing,
                    behind,
                    () if missing or behind else _unstarted(of, sequence, entry, heads),
                    silent if position.open is not None else (),
                )
            )
    return waits


def sides(job: Job, wait: Wait) -> bool:
    """Everybody with a dump has entered the operation of `wait`, and it is the oldest that each has not finished."""
    of = job.positions[wait.group]
    ranks = (wait.rank, wait.pair) if wait.pair is not None else wait.group.ranks
    for rank in ranks:
        if rank not in of:
            continue
        head = _head(job, rank)
        if head is None:
            if of[rank].open != wait.sequence:
                return False
        elif wait.pair is not None:
            if not (head.is_p2p and head.group == wait.group.name):
                return False
        elif head not in of[rank].calls.get(wait.sequence, []):
            return False
    return True


def _head(job: Job, rank: int) -> Entry | None:
    return next((e for e in job.dumps[rank].entries if not e.done), None)


def _missing(job: Job, rank: int, position: Position, sequence: int, waited: Entry | None) -> bool:
    if position.entered is not None:
        return position.entered < sequence
    entries = job.dumps[rank].entries
    if job.active_only or waited is None or not entries:
        return False
    return 0 < entries[0].created_ns < waited.created_ns  # its ring goes back further, and the call is not in it


def _behind(of: dict[int, Position], rank: int, position: Position) -> tuple[int, ...]:
    """Ranks whose account stands at an operation that needs everybody and that `rank` completed."""
    if position.completed is None:
        return ()
    found = []
    for q, other in of.items():
        at = other.open
        if q == rank or at is None or at > position.completed:
            continue
        if any(_joint(other.entry(n) or position.entry(n)) for n in range(at, min(position.completed, at + 64) + 1)):
            found.append(q)
    return tuple(found) if 2 * len(found) <= len(of) else ()


def _joint(entry: Entry | None) -> bool:
    return entry is None or entry.op.strip("_").split("_oop")[0] not in _ONE_WAY


def _unstarted(
    of: dict[int, Position], sequence: int, entry: Entry | None, heads: dict[int, Entry | None]
) -> tuple[int, ...]:
    if entry is None or not entry.started:
        return ()
    found = []
    for q, position in of.items():
        other = position.entry(sequence)
        if other is not None and not other.started and other is heads[q]:
            found.append(q)
    return tuple(found) if 2 * len(found) <= len(of) else ()


def _pairs(
    job: Job, group: Group, rank: int, position: Position, head: Entry | None, silent: tuple[int, ...]
) -> list[Wait]:
    """One wait for each peer with an unfinished send or receive."""
    found: dict[tuple[int, str], Wait] = {}
    for entry in position.pairs:
        peer = _peer(group, entry)
        if entry.done or peer is None or (peer, entry.op) in found:
            continue
        other = job.positions[group].get(peer)
        missing: tuple[int, ...] = ()
        if other is not None and not any(not e.done and e.op != entry.op and _peer(group, e) == rank for e in other.pairs):
            recorded = bool(other.pairs) or other.entered is not None
            missing = (peer,) if recorded else ()
        found[peer, entry.op] = Wait(
            rank,
            group,
            entry.p2p_sequence,
            entry.op,
            peer,
            head is not None and head.is_p2p and head.group == entry.group and head.p2p_sequence == entry.p2p_sequence,
            entry.created_ns,
            missing,
            (),
            (),
            (peer,) if peer in silent else (),
        )
    return list(found.values())


def _peer(group: Group, entry: Entry) -> int | None:
    """The global rank at the other end."""
    if entry.pair is None:
        return None
    source, target = entry.pair
    index = target if entry.op == "send" else source
    return group.ranks[index] if index < len(group.ranks) else None
