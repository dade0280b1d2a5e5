"""What a job does now, as tables: its groups with their rates and who lags, its ranks with what they wait in.

Sans-IO: summaries in, tables out.
"""

from __future__ import annotations

from collections import Counter, deque

from tightwire.ccl.analyzer import wait_for
from tightwire.ccl.collector import Collector
from tightwire.ccl.packing import Packer
from tightwire.ccl.probe.process import STATES
from tightwire.ccl.summary import Summary
from tightwire.core.events import operation
from tightwire.core.records import Table
from tightwire.core.units import format_time

WINDOW_S = 5.0  # over which rates are taken
SHOWN = 40  # rows of a table


class Overview:
    """Fed with the summaries of one agent or of many."""

    def __init__(self) -> None:
        self._collector = Collector()
        self._packers: dict[str, Packer] = {}
        self._counts: deque[tuple[float, dict[tuple[int, int], int]]] = deque()

    def take(self, summary: Summary) -> None:
        packer = self._packers.setdefault(summary.host, Packer(alone=True))
        self._collector.take([packer.digest(summary)])
        counts = {
            (rank, frame.group): frame.entered_seq
            for rank, view in self._collector.ranks.items()
            for frame in view.sample.frames
        }
        self._counts.append((summary.at_s, counts))
        while len(self._counts) > 2 and self._counts[1][0] <= summary.at_s - WINDOW_S:
            self._counts.popleft()

    def tables(self, now_s: float) -> list[Table]:
        """Groups, then ranks."""
        return [self._groups(), self._ranks(now_s)]

    def _rate(self, rank: int, group: int) -> float:
        (begin_s, before), (end_s, now) = self._counts[0], self._counts[-1]
        if end_s <= begin_s:
            return 0.0
        return max(now.get((rank, group), 0) - before.get((rank, group), now.get((rank, group), 0)), 0) / (
            end_s - begin_s
        )

    def _groups(self) -> Table:
        ranks, rows = dict(self._collector.ranks), []
        blocked = Counter(wait.group for wait in wait_for.waits(self._collector) if wait.missing)
        for facts in self._collector.groups.values():
            members = [rank for rank in facts.ranks if rank in ranks]
            entered = {rank: ranks[rank].entered(facts.group) for rank in members}
            if facts.point_to_point or not any(entered.values()):
                continue
            last = max(entered.values())
            lag = {rank: last - count for rank, count in entered.items() if count < last}
            frames = [f for rank in members for f in ranks[rank].sample.frames if f.group == facts.group]
            newest = max(frames, key=lambda f: f.entered_seq)
            behind = sorted(lag, key=lambda rank: -lag[rank])[:4]
            rows.append((
                max(lag.values(), default=0),
                [
                    facts.name, f"{len(members)} of {len(facts.ranks)}", f"{max(self._rate(r, facts.group) for r in members):.1f}",
                    f"{operation(newest.op)} {last}", str(blocked[facts.group]) if blocked[facts.group] else "-",
                    ", ".join(f"{rank} (-{lag[rank]})" for rank in behind) or "-",
                ],
            ))  # fmt: skip
        rows.sort(key=lambda row: -row[0])
        return Table(
            "Groups", ["group", "ranks", "calls/s", "newest call", "waiting", "behind"], [row for _, row in rows[:SHOWN]],
            ["ranks", "calls/s", "waiting"], _rest(len(rows)),
        )  # fmt: skip

    def _ranks(self, now_s: float) -> Table:
        ranks, groups, rows = dict(self._collector.ranks), self._collector.groups, []
        waits = {wait.rank: wait for wait in wait_for.waits(self._collector)}
        for rank, view in sorted(ranks.items()):
            process, wait = view.sample.process, waits.get(rank)
            state = "gone" if process is None else STATES.get(process.state, process.state)
            inside = "-"
            if wait is not None:
                name = groups[wait.group].name if wait.group in groups else f"{wait.group:016x}"
                inside = f"{operation(wait.op)} {wait.sequence} of {name}"
            missing = ", ".join(map(str, wait.missing[:6])) + (" …" if len(wait.missing) > 6 else "") if wait else ""
            calls = sum(self._rate(rank, frame.group) for frame in view.sample.frames)
            silent_s = max(now_s - view.progress_s, 0.0)
            rows.append(
                (
                    silent_s,
                    [
                        str(rank),
                        str(view.sample.pid),
                        state,
                        f"{calls:.1f}",
                        format_time(silent_s),
                        inside,
                        missing or "-",
                    ],
                )
            )
        if len(rows) > SHOWN:  # the quietest
            rows = sorted(sorted(rows, key=lambda row: -row[0])[:SHOWN], key=lambda row: int(row[1][0]))
        return Table(
            "Ranks", ["rank", "pid", "state", "calls/s", "silent for", "in", "waits for"], [row for _, row in rows],
            ["rank", "pid", "calls/s", "silent for"], _rest(len(ranks)),
        )  # fmt: skip


def _rest(count: int) -> list[str]:
    return [f"{SHOWN} of {count} are shown: those most behind"] if count > SHOWN else []
