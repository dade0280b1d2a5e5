"""From aligned dumps to verdicts: different calls first, then where waiting ends, then transfers that do not move."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from tightwire.ccl.analyzer.dumps import gloo, mismatch, waits, words
from tightwire.ccl.analyzer.dumps.alignment import Job, align
from tightwire.ccl.analyzer.dumps.mismatch import Mismatch
from tightwire.ccl.analyzer.dumps.waits import Wait
from tightwire.ccl.sources.flight_recorder.dump import Dump
from tightwire.ccl.verdict import Verdict


def diagnose(dumps: Mapping[int, Dump], unread: Sequence[str] = (), damaged: Collection[int] = ()) -> list[Verdict]:
    """One verdict for each class that is found; empty when nothing is unfinished. `unread` and `damaged`: files that could
    not be used, in words, and the ranks that they belong to. Times are on the ranks' wall clocks."""
    job = align(dumps)
    found = waits.find(job)
    different = _real(mismatch.find(job), found)
    verdicts = [words.inconsistent(job, one, found) for one in different]
    settled = {rank for verdict in verdicts for rank in verdict.waiting_ranks + verdict.guilty_ranks}
    settled |= {rank for one in different for rank in one.group.ranks if rank in job.silent}  # gloo may end them for it
    verdicts += _roots(job, found, settled, damaged)
    if not verdicts and any(w.pair is not None or job.positions[w.group][w.rank].open for w in found):
        verdicts.append(_outside(job, found, damaged) or words.standing(job, found))
    if not verdicts and (gone := _all_left(job)):
        verdicts.append(words.absent(job, "no dump", sorted(gone), {}, damaged, sorted(job.dumps)))
    if not verdicts and unread:
        verdicts.append(words.verdict(job, "undetermined", [], "low", "the dumps that can be read show nothing unfinished"))
    for verdict in verdicts:
        verdict.evidence.extend(unread)
    return verdicts


def _real(found: list[Mismatch], waiting: list[Wait]) -> list[Mismatch]:
    """A mismatch in a group is the reason unless somebody is waited for in another one, out of the group's reach."""
    return [one for one in found if not waiting or any(w.group == one.group for w in waiting)]


def _roots(job: Job, found: list[Wait], settled: set[int], damaged: Collection[int]) -> list[Verdict]:
    alone = {q for w in found for q in w.behind}  # its account stands where others went on: no older call explains that
    blocked = {
        w.rank
        for w in found
        if (w.targets and not (w.pair is not None and w.rank in alone)) or (w.head and w.later and w.rank not in alone)
    }  # a send or receive that such an account still has open may have been answered long ago
    accused: dict[int, list[Wait]] = defaultdict(list)
    for wait in found:
        for target in wait.targets:
            if target not in blocked and target not in settled:
                accused[target].append(wait)
    direct = {q for q, by in accused.items() if any(w.head or q in w.behind for w in by)}
    if direct:  # who is waited for only in calls that come after the ones that stand is no cause
        accused = defaultdict(list, {q: by for q, by in accused.items() if q in direct})
    if accused.keys() <= job.dumps.keys() and (gone := _left_by_all(job, accused)):
        waiting = [w for by in accused.values() for w in by]
        accused = defaultdict(list, dict.fromkeys(gone, waiting))
    by_kind: dict[str, list[int]] = defaultdict(list)
    for rank, by in sorted(accused.items()):
        by_kind[_kind(job, rank, by, found)].append(rank)
    verdicts = []
    if device := by_kind.pop("device", []):
        verdicts.append(words.device(job, device, accused, _victims(found, device)))
    if (link := by_kind.pop("transfer", [])) and not (verdicts or by_kind):  # a rank that can be named explains it
        verdicts.append(words.standing(job, [w for w in found if w.rank in link and w.ends]))
    if settled or verdicts or len(by_kind) > 1:  # what cannot be read is not accused where something else explains it
        by_kind["no dump"] = [r for r in by_kind.pop("no dump", []) if r not in damaged and r not in job.dumps]
    for kind, ranks in by_kind.items():
        if ranks:
            verdicts.append(words.absent(job, kind, ranks, accused, damaged, _victims(found, ranks)))
    if not accused and not settled and any(w.targets for w in found) and not any(w.ends for w in found):
        verdicts.append(words.circle(job, found))
    return verdicts


def _left_by_all(job: Job, accused: Collection[int]) -> set[int]:
    """Ranks without a dump that explain on gloo why each of the accused made no further call: theirs failed. Nobody if
    only one rank did not go on, as that may as well be its own doing."""
    idle = gloo.idle(job)
    if len(idle) < 2 or not accused or not set(accused) <= idle:
        return set()
    return set.intersection(*(gloo.left_by(job, rank) for rank in idle))


def _all_left(job: Job) -> set[int]:
    """The same where nobody waits any more."""
    idle = gloo.idle(job)
    return set.intersection(*(gloo.left_by(job, rank) for rank in idle)) if idle and idle == job.dumps.keys() else set()


def _outside(job: Job, found: list[Wait], damaged: Collection[int]) -> Verdict | None:
    """On gloo, whose groups are known by their use only: everybody who ever was in the group waits in it, and some ranks
    are in no operation at all."""
    wait = next((w for w in found if w.ends), None)
    away = sorted(gloo.idle(job))
    if wait is not None and (gone := _left_by_all(job, away)):
        return words.absent(job, "no dump", sorted(gone), {}, damaged, sorted(job.dumps))
    if wait is None or not away or any(ranks for dump in job.dumps.values() for ranks in dump.groups.values()):
        return None
    return words.absent(job, "not entered", away, {rank: [wait] for rank in away}, damaged, _victims(found, away))


def _victims(found: list[Wait], guilty: Collection[int]) -> list[int]:
    """Who waits for the guilty, or for somebody who does."""
    by_target: dict[int, set[int]] = defaultdict(set)
    for wait in found:
        for target in wait.targets:
            by_target[target].add(wait.rank)
    reached, next_ones = set(guilty), list(guilty)
    while next_ones:
        fresh = by_target[next_ones.pop()] - reached
        reached |= fresh
        next_ones += fresh
    return sorted(reached - set(guilty))


def _kind(job: Job, rank: int, by: list[Wait], found: list[Wait]) -> str:
    if rank not in job.dumps or not job.dumps[rank].whole:
        return "no dump"
    if any(rank in w.behind or rank in w.unstarted for w in by):
        return "device"
    if any(w.rank == rank and w.ends for w in found):
        return "transfer"
    return "not entered"
