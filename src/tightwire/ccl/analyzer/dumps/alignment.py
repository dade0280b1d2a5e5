"""Dumps of all ranks, aligned: which group an entry belongs to, and how far each rank is in each of its groups.

A group is its name and its ranks, as names repeat. A rank's position comes from its entries; where the ring has lost
them, or only lists what is unfinished, from `pg_status`, whose keys are the rank's own numbers of its groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from tightwire.ccl.analyzer.dumps import gloo
from tightwire.ccl.sources.flight_recorder.dump import Dump, Entry, Status


@dataclass(frozen=True, slots=True)
class Group:
    """`ranks` are global; a rank of the group is an index into them."""

    name: str
    ranks: tuple[int, ...]


@dataclass(slots=True)
class Position:
    """One rank in one group: its calls by sequence number, its sends and receives; the last collective that it entered
    and the last before which all is completed, None where that cannot be told."""

    calls: dict[int, list[Entry]] = field(default_factory=dict)
    pairs: list[Entry] = field(default_factory=list)
    entered: int | None = None
    completed: int | None = None

    @property
    def last(self) -> int | None:
        """The last collective in its record."""
        return max(self.calls, default=self.entered)

    @property
    def open(self) -> int | None:
        """The first collective that is entered and not completed."""
        if self.entered is None or self.completed is None or self.entered <= self.completed:
            return None
        return self.completed + 1

    def entry(self, sequence: int) -> Entry | None:
        calls = self.calls.get(sequence)
        return calls[-1] if calls else None


@dataclass(slots=True)
class Job:
    """`positions`: group → rank → position, for ranks that have a dump. `world_known`: it is not only the ranks that have
    one. `active_only`: completed entries were left out. `failed`: groups with calls that cannot have been completed
    though their record says so."""

    dumps: Mapping[int, Dump]
    world: tuple[int, ...]
    world_known: bool
    positions: dict[Group, dict[int, Position]]
    descriptions: dict[str, str]
    active_only: bool
    failed: set[Group] = field(default_factory=set)

    @property
    def silent(self) -> set[int]:
        """Ranks without a dump."""
        return set(self.world) - self.dumps.keys()

    def title(self, group: Group) -> str:
        return self.descriptions.get(group.name) or group.name


def align(dumps: Mapping[int, Dump]) -> Job:
    """Linear in entries and in memberships."""
    named = {rank for dump in dumps.values() for ranks in dump.groups.values() for rank in ranks}
    told = gloo.size(e for dump in dumps.values() for e in dump.entries if e.group in gloo.DEFAULT)
    used = gloo.use(dumps, max(max(dumps, default=-1) + 1, told or 0))
    world = tuple(sorted(named | dumps.keys())) if named else tuple(range(used.world))
    members = _Members(dumps, world, used.members)
    positions: dict[Group, dict[int, Position]] = defaultdict(dict)
    descriptions: dict[str, str] = {}
    numbers: dict[tuple[int, Group], int] = {}
    for rank, dump in dumps.items():
        for name in dump.groups:
            positions[members.group(rank, name)].setdefault(rank, Position())
        for entry in dump.entries:
            group = members.group(rank, entry.group)
            position = positions[group].setdefault(rank, Position())
            numbers[rank, group] = entry.group_id
            if entry.description:
                descriptions[entry.group] = entry.description
            if entry.is_p2p:
                position.pairs.append(entry)
            else:
                position.calls.setdefault(entry.sequence, []).append(entry)
    for group, of in positions.items():
        for rank in group.ranks:
            if rank in dumps:
                of.setdefault(rank, Position())
    active_only = not any(entry.done for dump in dumps.values() for entry in dump.entries)
    job = Job(dumps, world, bool(named or told), dict(positions), descriptions, active_only)
    _number_by_order(job, numbers)
    tells = any(dump.status for dump in dumps.values())
    for group, of in job.positions.items():
        mixed = any(_mixed(position) for position in of.values())
        status = {rank: _status(rank, group, of, dumps, numbers) for rank in of}
        for rank, position in of.items():
            _place(position, dumps[rank], status[rank], mixed, tells)
        if failed := gloo.failed(of):
            job.failed.add(group)
            for entry in failed:
                entry.done = False
            for rank, position in of.items():
                _place(position, dumps[rank], status[rank], mixed, tells)
    return job


class _Members:
    """Which ranks a name means to a rank: its own account, that of a peer, or what its use says."""

    def __init__(self, dumps: Mapping[int, Dump], world: tuple[int, ...], used: Mapping[str, tuple[int, ...]]) -> None:
        self.dumps, self.world = dumps, world
        self.told: dict[str, set[tuple[int, ...]]] = defaultdict(set)
        for dump in dumps.values():
            for name, ranks in dump.groups.items():
                self.told[name].add(ranks)
        self.used = used
        self.known: dict[tuple[int, str], Group] = {}

    def group(self, rank: int, name: str) -> Group:
        key = (rank, name)
        if key not in self.known:
            self.known[key] = Group(name, self._ranks(rank, name))
        return self.known[key]

    def _ranks(self, rank: int, name: str) -> tuple[int, ...]:
        own = self.dumps[rank].groups.get(name, ())
        if own:
            return own
        for ranks in sorted(self.told.get(name, ())):
            if rank in ranks:
                return ranks
        if name in gloo.DEFAULT:
            return self.world
        return self.used.get(name) or (rank,)


def _mixed(position: Position) -> bool:
    """Sends and receives were numbered along with the collectives: `pg_status` counts both."""
    return bool(position.pairs) or any(e.op_id > e.sequence for calls in position.calls.values() for e in calls)


def _number_by_order(job: Job, numbers: dict[tuple[int, Group], int]) -> None:
    """A rank numbers its groups in the order of their creation, and so are their names counted: where the two lists are
    equally long and agree on what the entries say, they tell the rest."""
    own: dict[int, list[Group]] = defaultdict(list)
    for group, of in job.positions.items():
        for rank in of:
            if group.name in job.dumps[rank].groups and group.name.isdecimal():
                own[rank].append(group)
    for rank, groups in own.items():
        dump = job.dumps[rank]
        if len(groups) != len(dump.status) or len(groups) != len(dump.groups):
            continue
        paired = list(zip(sorted(groups, key=lambda g: int(g.name)), sorted(dump.status), strict=True))
        if all(numbers.get((rank, group), number) == number for group, number in paired):
            for group, number in paired:
                numbers[rank, group] = number


def _status(
    rank: int,
    group: Group,
    of: Mapping[int, Position],
    dumps: Mapping[int, Dump],
    numbers: Mapping[tuple[int, Group], int],
) -> Status | None:
    number = numbers.get((rank, group))
    if number is None:
        peers = {numbers[q, group] for q in of if (q, group) in numbers}
        taken = {n for (r, _), n in numbers.items() if r == rank} if len(peers) == 1 else set()
        number = peers.pop() if len(peers) == 1 else None
        if number in taken:
            return None
    return dumps[rank].status.get(number) if number is not None else None


def _place(position: Position, dump: Dump, status: Status | None, mixed: bool, tells: bool) -> None:
    """`tells`: dumps of this version have a status for each group that was used."""
    known = status is not None and status.enqueued is not None and status.completed is not None and not mixed
    if not dump.whole and not known:
        position.entered = position.completed = None  # what it did last is lost
    elif position.calls and dump.whole:
        position.entered = max(position.calls)
        unfinished = [n for n, calls in position.calls.items() if not all(e.done for e in calls)]
        position.completed = min(unfinished) - 1 if unfinished else position.entered
    elif status is not None and not mixed:
        position.entered = status.enqueued or 0
        position.completed = status.completed or 0
    elif status is None and dump.whole and (dump.status or (dump.entries[0].record == 0 if dump.entries else tells)):
        position.entered = position.completed = 0  # nothing is lost, and nothing was ever called there
