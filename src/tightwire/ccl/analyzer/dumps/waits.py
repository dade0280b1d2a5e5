"""Who waits for whom, from aligned dumps.

| edge | r waits for q when |
|---|---|
| missing | q has not entered the operation in which r waits, or posted the other half of its send or receive |
| behind | r completed an operation that needs everybody, and q's account of it stands still |
| unstarted | r's part of an operation runs, q has enqueued its own as its next and it does not start |
| no dump | everybody else entered, and q left no dump |
| later | q has entered it too, and an older operation that it has not finished stands before it |

Only the last accuses nobody: it says that r is no place where waiting ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from tightwire.ccl.analyzer.dumps import gloo
from tightwire.ccl.analyzer.dumps.alignment import Group, Job, Position
from tightwire.ccl.sources.flight_recorder.dump import Dump, Entry


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
    later: tuple[int, ...] = ()

    @property
    def ends(self) -> bool:
        """Everybody with a dump is in the operation, and nothing else stands before it."""
        return self.head and not self.targets and not self.later

    @property
    def targets(self) -> tuple[int, ...]:
        known = self.missing + self.behind + self.unstarted
        return known or self.silent


def find(job: Job) -> list[Wait]:
    """All waits of all ranks."""
    heads = {rank: _head(job, rank) for rank in job.dumps}
    waits = []
    for group, of in job.positions.items():
        silent = tuple(q for q in group.ranks if q not in job.dumps or (q in of and _cut_off(job.dumps[q], of[q])))
        for rank, position in of.items():
            waits += _pairs(job, group, rank, position, heads, silent)
            sequence = position.open
            behind = _behind(job, of, rank, position)
            if sequence is None and not behind:
                continue
            sequence = min((of[q].open or 0 for q in behind), default=0) if sequence is None else sequence
            entry = position.entry(sequence)
            known = next((e for p in of.values() if (e := p.entry(sequence)) is not None), None)
            shown = entry or known
            missing = tuple(
                q for q in group.ranks if q in of and q != rank and _missing(job, of, q, sequence, shown)
            )
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
                    tuple(q for q, p in of.items() if _elsewhere(heads[q], p.calls.get(sequence, []))),
                )
            )
    return waits


def _cut_off(dump: Dump, position: Position) -> bool:
    return not dump.whole and position.entered is None


def _head(job: Job, rank: int) -> Entry | None:
    return next((e for e in job.dumps[rank].entries if not e.done), None)


def _missing(job: Job, of: dict[int, Position], rank: int, sequence: int, waited: Entry | None) -> bool:
    position = of[rank]
    if position.entered is not None:
        return position.entered < sequence
    if _finished_or_away(job, rank, position):
        away = [q for q, other in of.items() if sequence not in other.calls]
        return 2 * len(away) < len(of)
    entries = job.dumps[rank].entries
    if waited is None or not entries or not job.dumps[rank].whole:
        return False
    return 0 < entries[0].created_ns < waited.created_ns  # its ring goes back further, and the call is not in it


def _finished_or_away(job: Job, rank: int, position: Position) -> bool:
    """Nothing of the group is unfinished on `rank`, and what it completed is not told: it completed all or entered none of
    what is unfinished on others. The few are the exception."""
    return job.active_only and job.dumps[rank].whole and position.entered is None and not position.calls


def _behind(job: Job, of: dict[int, Position], rank: int, position: Position) -> tuple[int, ...]:
    """Ranks whose account stands at an operation that needs everybody and that `rank` completed."""
    if _finished_or_away(job, rank, position):
        if job.dumps[rank].entries:  # it stands elsewhere, and may not have come here
            return ()
        stand = tuple(q for q, other in of.items() if other.open is not None and gloo.joint(other.entry(other.open)))
        return stand if 2 * len(stand) < len(of) else ()
    if position.completed is None:
        return ()
    found = []
    for q, other in of.items():
        at = other.open
        if q == rank or at is None or at > position.completed or _on_gloo(other.entry(at)):
            continue
        if any(
            gloo.joint(other.entry(n) or position.entry(n)) for n in range(at, min(position.completed, at + 64) + 1)
        ):
            found.append(q)
    return tuple(found) if 2 * len(found) <= len(of) else ()


def _on_gloo(entry: Entry | None) -> bool:
    """There is no device that could stand still, and who left it may have left in error."""
    return entry is not None and entry.backend == gloo.NAME


def _elsewhere(head: Entry | None, calls: list[Entry]) -> bool:
    """The oldest unfinished call is none of these, and not of one batch with them."""
    if head is None or not calls or all(e.done for e in calls):
        return False
    return not any((head.group, head.op_id) == (e.group, e.op_id) or _batch(head, e) for e in calls)


def _batch(one: Entry, other: Entry) -> bool:
    return one.is_p2p and other.is_p2p and (one.group, one.p2p_sequence) == (other.group, other.p2p_sequence)


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
    job: Job, group: Group, rank: int, position: Position, heads: dict[int, Entry | None], silent: tuple[int, ...]
) -> list[Wait]:
    """One wait for each peer with an unfinished send or receive."""
    head = heads[rank]
    found: dict[tuple[int, str], Wait] = {}
    for entry in position.pairs:
        peer = _peer(group, entry)
        if entry.done or peer is None or (peer, entry.op) in found:
            continue
        other = job.positions[group].get(peer)
        halves = (
            [e for e in other.pairs if not e.done and e.op != entry.op and _peer(group, e) == rank] if other else []
        )
        recorded = other is not None and (bool(other.pairs) or other.entered is not None)
        missing = (peer,) if recorded and not halves else ()
        stands = entry.started and any(e is heads.get(peer) and not e.started for e in halves)
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
            (peer,) if stands else (),
            (peer,) if peer in silent else (),
            (peer,) if _elsewhere(heads.get(peer), halves) or not (halves or missing or peer in silent) else (),
        )
    return list(found.values())


def _peer(group: Group, entry: Entry) -> int | None:
    """The global rank at the other end."""
    if entry.pair is None:
        return None
    source, target = entry.pair
    index = target if entry.op == "send" else source
    return group.ranks[index] if index < len(group.ranks) else None
