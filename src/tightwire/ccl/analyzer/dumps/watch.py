"""Verdicts from one set of dumps after the other, of a job that is alive.

A dump shows one moment, and the ranks' moments differ: what one set says of a running job is nothing yet. What two sets say
alike, of the same operation of the same group, is a hang.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tightwire.ccl.analyzer.dumps.verdicts import diagnose
from tightwire.ccl.sources.flight_recorder.folder import DumpSet
from tightwire.ccl.verdict import Verdict

Key = tuple[str, tuple[int, ...], tuple[str, ...], str, int]


@dataclass
class Watch:
    """`take` a set as often as there is one. `standing`: what has been said and still holds."""

    standing: dict[Key, Verdict] = field(default_factory=dict)
    _before: set[Key] = field(default_factory=set)

    def take(self, found: DumpSet, final: bool = False) -> tuple[list[Verdict], bool]:
        """What is new in this set, and whether all that was standing is over. `final`: the set is of a job that had given
        up, as those that torch writes at a timeout; once is enough."""
        verdicts = {_key(each): each for each in diagnose(found.dumps, found.unread, found.damaged) if found.dumps}
        firm = {key: each for key, each in verdicts.items() if final or key in self._before}
        news = [each for key, each in firm.items() if key not in self.standing]
        over = bool(self.standing) and not verdicts.keys() & self.standing.keys() and not news
        self.standing = {key: each for key, each in {**self.standing, **firm}.items() if key in verdicts}
        self._before = set(verdicts)
        return news, over


def _key(verdict: Verdict) -> Key:
    guilty: Sequence[int] = verdict.guilty_ranks
    return verdict.anomaly, tuple(guilty), tuple(verdict.guilty_links), verdict.group, verdict.sequence
