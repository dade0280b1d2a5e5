"""From aligned dumps to verdicts: different calls first, then where waiting ends, then transfers that do not move."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from tightwire.ccl.analyzer.dumps import gloo, mismatch, waits
from tightwire.ccl.analyzer.dumps.alignment import Job, align
from tightwire.ccl.analyzer.dumps.mismatch import Mismatch
from tightwire.ccl.analyzer.dumps.waits import Wait
from tightwire.ccl.sources.flight_recorder.dump import Dump
from tightwire.ccl.verdict import AnomalyClass, Verdict

_FRAMES = 4


def diagnose(dumps: Mapping[int, Dump], unread: Sequence[str] = (), damaged: Collection[int] = ()) -> list[Verdict]:
    """One verdict for each class that is found; empty when nothing is unfinished. `unread` and `damaged`: files that could
    not be used, in words, and the ranks that they belong to. Times are on the ranks' wall clocks."""
    job = align(dumps)
    found = waits.find(job)
    different = _real(mismatch.find(job), found)
    verdicts = [_inconsistent(job, one, found) for one in different]
    settled = {rank for verdict in verdicts for rank in verdict.waiting_ranks + verdict.guilty_ranks}
    settled |= {rank for one in different for rank in one.group.ranks if rank in job.silent}  # gloo may end them for it
    verdicts += _roots(job, found, settled, damaged)
    if not verdicts and any(w.pair is not None or job.positions[w.group][w.rank].open for w in found):
        verdicts.append(_outside(job, found, damaged) or _standing(job, found))
    if not verdicts and (gone := _all_left(job)):
        verdicts.append(_absent(job, "no dump", sorted(gone), {}, damaged, sorted(job.dumps)))
    if not verdicts and unread:
        verdicts.append(_verdict(job, "undetermined", [], "low", "the dumps that can be read show nothing unfinished"))
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
        verdicts.append(_device(job, device, accused, _victims(found, device)))
    if (link := by_kind.pop("transfer", [])) and not (verdicts or by_kind):  # a rank that can be named explains it
        verdicts.append(_standing(job, [w for w in found if w.rank in link and w.ends]))
    if settled or verdicts or len(by_kind) > 1:  # what cannot be read is not accused where something else explains it
        by_kind["no dump"] = [r for r in by_kind.pop("no dump", []) if r not in damaged and r not in job.dumps]
    for kind, ranks in by_kind.items():
        if ranks:
            verdicts.append(_absent(job, kind, ranks, accused, damaged, _victims(found, ranks)))
    if not accused and not settled and any(w.targets for w in found) and not any(w.ends for w in found):
        verdicts.append(_circle(job, found))
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
        return _absent(job, "no dump", sorted(gone), {}, damaged, sorted(job.dumps))
    if wait is None or not away or any(ranks for dump in job.dumps.values() for ranks in dump.groups.values()):
        return None
    return _absent(job, "not entered", away, {rank: [wait] for rank in away}, damaged, _victims(found, away))


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


def _device(job: Job, ranks: list[int], accused: Mapping[int, list[Wait]], victims: list[int]) -> Verdict:
    lines = []
    for rank in ranks:
        behind = [w for w in accused[rank] if rank in w.behind]
        idle = [w for w in accused[rank] if rank in w.unstarted]
        if behind:
            wait = max(behind, key=lambda w: job.positions[w.group][w.rank].completed or 0)
            of = job.positions[wait.group]
            at, theirs = of[rank].open or 0, of[wait.rank].completed
            lines.append(
                f"rank {rank}: its device stands at {_op(job, wait.group, at)} number {at} of group {job.title(wait.group)!r}; "
                f"rank {wait.rank} has completed everything up to number {theirs}"
            )
        elif idle:
            wait = idle[0]
            lines.append(
                f"rank {rank} enqueued {wait.operation.strip('_')} number {wait.sequence} of group {job.title(wait.group)!r} "
                f"and it does not start; it runs on rank {wait.rank}"
            )
        lines += _last(job, rank)
    waiting = [w for r in ranks for w in accused[r]]
    return _verdict(job, "H3", ranks, "high", "its device does not go on", lines, waiting, victims=victims)


def _absent(
    job: Job,
    kind: str,
    ranks: list[int],
    accused: Mapping[int, list[Wait]],
    damaged: Collection[int],
    victims: list[int],
) -> Verdict:
    waiting = [w for r in ranks for w in accused.get(r, ())]
    lines = []
    for rank in ranks:
        if kind == "no dump":
            left = "its dump cannot be read" if rank in damaged else "no dump"
            left = "its dump ends too early" if rank in job.dumps else left
            lines.append(f"rank {rank}: {left}; the others {'wait for it' if waiting else 'make no further call'}")
            continue
        wait = accused[rank][0]
        position = job.positions[wait.group].get(rank)
        if wait.pair is not None:
            half = "receive" if wait.operation == "send" else "send"
            lines.append(f"rank {rank} has not posted the {half} that rank {wait.rank} waits for")
        elif position is None:
            lines.append(
                f"rank {rank} is in no operation, and everybody else known of the group is in {_call(job, wait)}"
            )
        else:
            entered = position.entered
            known = "is not in its record" if entered is None else f"its last one is number {entered}"
            lines.append(f"rank {rank} has not entered {_call(job, wait)}: {known}")
        lines += _last(job, rank)
    lone = len(job.silent) == 1 and not set(ranks) & {*damaged, *job.dumps}
    sure = kind == "not entered" or (lone and (job.world_known or max(ranks) < max(job.dumps)))
    doubts = _doubts(job, kind, ranks, waiting)
    cause = "has not entered" if kind == "not entered" else "left no dump"
    confidence = "high" if sure and not doubts else "low"
    return _verdict(job, "H1", ranks, confidence, cause, [*lines, *doubts], waiting, victims=victims)


def _doubts(job: Job, kind: str, ranks: list[int], waiting: list[Wait]) -> list[str]:
    """Why gloo's records do not prove it."""
    doubts = []
    if any(w.group in job.failed for w in waiting) or (kind == "no dump" and not waiting):
        doubts.append(
            "the others' last call is recorded as over; gloo records one that failed like one that was completed"
        )
    unknown = [r for w in waiting for r in ranks if kind == "not entered" and r not in job.positions[w.group]]
    if unknown:
        doubts.append("gloo does not record who is in a group")
    if len(ranks) > 1 and kind == "not entered" and gloo.sends(job):
        doubts.append("gloo records no sends and receives: one of these ranks may wait for another in one")
    return doubts


def _standing(job: Job, found: list[Wait]) -> Verdict:
    """All have entered, and nothing completes: no rank is behind the others."""
    stuck = [w for w in found if not w.targets] or found
    oldest = [w for w in stuck if w.ends] or [w for w in stuck if w.head] or stuck
    wait = min(oldest, key=lambda w: (w.created_ns, w.rank))
    ends = sorted({wait.rank, wait.pair} if wait.pair is not None else wait.group.ranks)
    link = [f"{ends[0]}-{ends[1]}"] if len(ends) == 2 else []
    of = job.positions[wait.group]
    entries = [of[rank].entry(wait.sequence) if rank in of else None for rank in ends]
    started = sum(e is not None and e.started for e in entries)
    done = [r for r, e in zip(ends, entries, strict=True) if e is not None and e.done]
    through = f"rank {', '.join(map(str, done))} left it" if done else "none has completed it"
    lines = [f"all ranks of group {job.title(wait.group)!r} entered {_call(job, wait)}; {through}"]
    if not any(e is not None and e.backend == gloo.NAME for e in entries):
        runs = f"it runs on {started} of {len(ends)} ranks"
        lines.append(runs if started else "no dump says that it has started anywhere")
    elif not job.world_known:
        lines.append(
            f"gloo does not record how many ranks there are: one beyond rank {max(job.world)} would not be missed"
        )
    if not link:
        lines.append("which rank or link holds it up cannot be told from dumps")
    same = [w for w in stuck if w.group == wait.group and w.sequence == wait.sequence]
    return _verdict(job, "H3", [], "low", "its bytes do not move", lines, same or [wait], link)


def _circle(job: Job, found: list[Wait]) -> Verdict:
    lines = []
    for wait in [w for w in found if w.head and w.targets][:8]:
        lines.append(f"rank {wait.rank} waits in {_call(job, wait)} for rank {', '.join(map(str, wait.targets))}")
    lines.append("the ranks wait for each other in a circle: they made their calls in different orders")
    return _verdict(job, "H2", [], "low", "order of calls in different groups", lines, [w for w in found if w.targets])


def _inconsistent(job: Job, one: Mismatch, found: list[Wait]) -> Verdict:
    who = ", ".join(map(str, one.guilty)) if one.guilty else "one half"
    title, position = job.title(one.group), job.positions[one.group]
    lines = [
        f"in number {one.sequence} of group {title!r}, rank {who} called {mismatch.call(one.found)}; "
        f"rank {', '.join(map(str, one.others))} called {mismatch.call(one.expected)}",
        f"they differ in: {one.field}",
    ]
    if one.completed:
        lines.append("it is completed on all of them: nobody hangs in it, and its results are not what they should be")
    if not one.guilty:
        lines.append("which of the two is right cannot be told")
    for rank in one.guilty:
        entry = position[rank].entry(one.sequence)
        if entry is not None and entry.frames:
            lines.append(f"rank {rank} called it from {' ← '.join(entry.frames[:_FRAMES])}")
    waiting = [w for w in found if w.group == one.group]
    shown = Wait(
        one.others[0], one.group, one.sequence, one.expected.op, None, True, one.expected.created_ns, (), (), (), ()
    )
    return _verdict(
        job, "H2", list(one.guilty), "high" if one.guilty else "low", f"different {one.field}", lines,
        [] if one.completed else [shown, *waiting], about=shown,
    )  # fmt: skip


def _last(job: Job, rank: int) -> list[str]:
    """What a rank did last, with the stack of that call."""
    entries = job.dumps[rank].entries
    if not entries:
        return [f"rank {rank} has no entries in its dump"]
    last = entries[-1]
    number = last.p2p_sequence if last.is_p2p else last.sequence
    how = "completed" if last.done else "not completed"
    name = job.descriptions.get(last.group) or last.group
    lines = [f"rank {rank}'s last call: {mismatch.call(last)} number {number} of group {name!r}, {how}"]
    if last.frames:
        lines.append(f"its stack then, innermost first: {' ← '.join(last.frames[:_FRAMES])}")
    return lines


def _call(job: Job, wait: Wait) -> str:
    operation = wait.operation.strip("_") or "an operation"
    return f"{operation} number {wait.sequence} of group {job.title(wait.group)!r}"


def _op(job: Job, group: object, sequence: int) -> str:
    for key, of in job.positions.items():
        if key == group:
            return next((e.op.strip("_") for p in of.values() if (e := p.entry(sequence)) is not None), "operation")
    return "operation"


def _verdict(
    job: Job,
    anomaly: AnomalyClass,
    guilty: list[int],
    confidence: str,
    cause: str,
    lines: Sequence[str] = (),
    waiting: Sequence[Wait] = (),
    links: Sequence[str] = (),
    victims: Sequence[int] = (),
    about: Wait | None = None,
) -> Verdict:
    """`waiting`: the waits that the verdict explains; `victims` also has the ranks behind those; `about`: the call, if it is
    not that of a wait."""
    first = about or next((w for w in waiting if w.head), waiting[0] if waiting else None)
    ranks = sorted(({w.rank for w in waiting} | set(victims)) - set(guilty))
    evidence = list(lines)
    if first is not None and ranks:
        verb = "waits" if len(ranks) == 1 else "wait"
        evidence.append(f"rank {', '.join(map(str, ranks))} {verb}; rank {first.rank} in {_call(job, first)}")
    created = [e.created_ns for dump in job.dumps.values() for e in dump.entries[-1:]]
    since_s = (first.created_ns if first else 0) / 1e9
    return Verdict(
        anomaly=anomaly,
        guilty_ranks=sorted(guilty),
        confidence="high" if confidence == "high" else "low",
        cause=cause,
        group=job.title(first.group) if first else "",
        operation=first.operation.strip("_") if first else "",
        sequence=first.sequence if first else 0,
        waiting_ranks=ranks,
        evidence=evidence,
        since_s=since_s,
        at_s=max([since_s, *(ns / 1e9 for ns in created)]),
        guilty_links=list(links),
    )
