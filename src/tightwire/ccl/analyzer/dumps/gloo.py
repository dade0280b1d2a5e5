"""What gloo's records leave out, inferred from all ranks' dumps.

gloo records no ranks of its groups, and an operation that failed (a peer died, a timeout) like one that was completed. A
group is as large as its gathers and scatters say, or as the groups that are like it: such groups share the ranks out. An
operation that needs everybody was not completed while one of its ranks has not entered it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tightwire.ccl.sources.flight_recorder.dump import Dump, Entry

if TYPE_CHECKING:
    from tightwire.ccl.analyzer.dumps.alignment import Job, Position

NAME = "gloo"
DEFAULT = ("", "0")  # the name of the group of all ranks
_ONE_WAY = ("broadcast", "reduce", "gather", "scatter", "send", "recv")  # some may leave before others have come
_SPREADS = ("all_gather", "gather")
_COLLECTS = ("reduce_scatter", "scatter")


def joint(entry: Entry | None) -> bool:
    """It needs everybody; an unknown one is taken to."""
    return entry is None or needs_everybody(entry.op)


def needs_everybody(op: str) -> bool:
    """Nobody leaves an operation of that name before everybody has come."""
    return op.strip("_").lower().split("_oop")[0] not in _ONE_WAY


def size(entries: Iterable[Entry]) -> int | None:
    """How many ranks the group of these entries has, where one of them tells."""
    found: Counter[int] = Counter()
    for entry in entries:
        op = entry.op.strip("_")
        large, small = entry.out_elements, entry.in_elements
        if op.startswith(_COLLECTS):
            large, small = small, large
        elif not op.startswith(_SPREADS):
            continue
        if small > 0 and large > small and large % small == 0:
            found[large // small] += 1
    return found.most_common(1)[0][0] if found else None


@dataclass(frozen=True)
class Use:
    """What the groups' use says: the `members` by name of those that no dump tells, and how many ranks there must be."""

    members: dict[str, tuple[int, ...]]
    world: int


def use(dumps: Mapping[int, Dump], world: int) -> Use:
    """The ranks of a group are who used it, and who must have been left over for it, with a dump or without."""
    told = {name for dump in dumps.values() for name, ranks in dump.groups.items() if ranks}
    users: dict[str, set[int]] = defaultdict(set)
    entries: dict[str, list[Entry]] = defaultdict(list)
    for rank, dump in dumps.items():
        for entry in dump.entries:
            if entry.group not in told and entry.group not in DEFAULT:
                users[entry.group].add(rank)
                entries[entry.group].append(entry)
    alike: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for name, calls in entries.items():
        first = min(calls, key=lambda e: e.sequence)
        alike[first.description, first.op, first.in_elements, first.out_elements].append(name)
    kinds = [
        {name: (size(entries[name]) or max(len(users[n]) for n in names)) - len(users[name]) for name in names}
        for names in alike.values()
        if sum(len(users[name]) for name in names) == len(set().union(*(users[name] for name in names)))
    ]
    for lacking in kinds:
        if sum(number > 0 for number in lacking.values()) == 1:
            world = max(world, sum(lacking.values()) + sum(len(users[name]) for name in lacking))
    found = {name: tuple(sorted(ranks)) for name, ranks in users.items()}
    for lacking in kinds:
        left = set(range(world)).difference(*(users[name] for name in lacking))
        short = [name for name, number in lacking.items() if number > 0]
        if len(short) == 1 and lacking[short[0]] == len(left):
            found[short[0]] = tuple(sorted(users[short[0]] | left))
    return Use(found, world)


def failed(of: Mapping[int, Position]) -> list[Entry]:
    """Of one group: the entries that look completed and cannot be, as one rank has not entered them. Where ranks went on
    beyond the next one, their dumps are of different times: then nothing is said."""
    entered = {rank: position.last for rank, position in of.items() if position.last is not None}
    if len(entered) < 2:
        return []
    behind, ahead = min(entered.values()), max(entered.values())
    if ahead != behind + 1:
        return []
    calls = [entry for position in of.values() for entry in position.calls.get(ahead, [])]
    return [entry for entry in calls if entry.done and entry.backend == NAME and joint(entry)]


def idle(job: Job) -> set[int]:
    """The ranks that are in no operation, by their record; they may wait in a send or receive, as gloo records none."""
    busy = {rank for of in job.positions.values() for rank, p in of.items() if p.open is not None}
    return {r for r, d in job.dumps.items() if r not in busy and all(e.backend == NAME for e in d.entries[-1:])}


def left_by(job: Job, rank: int) -> set[int]:
    """The ranks without a dump that the last call of `rank` may have failed because of: they are in its group, and nobody
    has entered anything in it since."""
    last = next(iter(job.dumps[rank].entries[-1:]), None)
    if last is None or last.backend != NAME or not last.done:
        return set()
    for group, of in job.positions.items():
        if group.name == last.group and rank in of:
            newest = max(position.entered or 0 for position in of.values())
            known = set(group.ranks) if len(group.ranks) > 1 else job.silent  # nobody talks to himself
            return job.silent & known if newest <= last.sequence else set()
    return set()


def sends(job: Job) -> bool:
    """Some rank sent or received: that is counted along with the collectives, though it is not recorded."""
    entries = (entry for dump in job.dumps.values() for entry in dump.entries)
    return any(entry.backend == NAME and entry.op_id > entry.sequence for entry in entries)
