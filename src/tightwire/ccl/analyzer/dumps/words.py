"""A dump's verdicts in words that a person can act on, as the same record that the live path makes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tightwire.ccl.analyzer.dumps import gloo, mismatch
from tightwire.ccl.analyzer.dumps.alignment import Job
from tightwire.ccl.analyzer.dumps.mismatch import Mismatch
from tightwire.ccl.analyzer.dumps.waits import Wait
from tightwire.ccl.verdict import AnomalyClass, Verdict

_FRAMES = 4


def inconsistent(job: Job, one: Mismatch, found: list[Wait]) -> Verdict:
    """H2: the ranks of a group made different calls in its place `one.sequence`."""
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
    return verdict(
        job, "H2", list(one.guilty), "high" if one.guilty else "low", f"different {one.field}", lines,
        [] if one.completed else [shown, *waiting], about=shown,
    )  # fmt: skip


def device(job: Job, ranks: list[int], accused: Mapping[int, list[Wait]], victims: list[int]) -> Verdict:
    """H3: these ranks entered what the others completed, and their devices do not go on; who waits for them is in `accused`."""
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
    return verdict(job, "H3", ranks, "high", "its device does not go on", lines, waiting, victims=victims)


def absent(
    job: Job,
    kind: str,
    ranks: list[int],
    accused: Mapping[int, list[Wait]],
    damaged: Collection[int],
    victims: list[int],
) -> Verdict:
    """H1: these ranks have not entered (`kind` "not entered") or left no dump ("no dump"); who waits for them is in
    `accused`. At high confidence only where nothing else can be true."""
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
    return verdict(job, "H1", ranks, confidence, cause, [*lines, *doubts], waiting, victims=victims)


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


def standing(job: Job, found: list[Wait]) -> Verdict:
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
    return verdict(job, "H3", [], "low", "its bytes do not move", lines, same or [wait], link)


def circle(job: Job, found: list[Wait]) -> Verdict:
    """H2, at low confidence: who waits ends nowhere."""
    lines = []
    for wait in [w for w in found if w.head and w.targets][:8]:
        lines.append(f"rank {wait.rank} waits in {_call(job, wait)} for rank {', '.join(map(str, wait.targets))}")
    lines.append("the ranks wait for each other in a circle: they made their calls in different orders")
    return verdict(job, "H2", [], "low", "order of calls in different groups", lines, [w for w in found if w.targets])


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


def verdict(
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
    """The record. `waiting`: the waits that the verdict explains; `victims` also has the ranks behind those; `about`: the call, if it is
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
