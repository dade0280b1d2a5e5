"""How good diagnoses are against the truth: class, exact place, wrong accusations, and how long it took."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from tightwire.ccl.verdict import Verdict


class Truth(msgspec.Struct, frozen=True, rename={"anomaly": "class"}):
    """What was injected: its class, and the guilty ranks or, where a link alone is guilty, the links (`a-b`, the smaller
    rank first)."""

    anomaly: str
    guilty_ranks: list[int]
    guilty_links: list[str] = []


class Outcome(msgspec.Struct, frozen=True):
    """One incident: whether its last word is right, and whether somebody innocent was accused at high confidence."""

    class_right: bool
    location_right: bool
    wrong_accusation: bool


class Score(msgspec.Struct, frozen=True):
    """Over many incidents; shares of `runs`."""

    runs: int
    class_accuracy: float
    location_accuracy: float
    high_confidence_wrong: int


def judge(truth: Truth, verdicts: Sequence[Verdict]) -> Outcome:
    """`verdicts` of one run in which only `truth` happened; a recovery does not count."""
    said = [verdict for verdict in verdicts if verdict.ended_s is None]
    last = said[-1] if said else None
    return Outcome(
        last is not None and last.anomaly == truth.anomaly,
        last is not None and _there(truth, last),
        any(verdict.confidence == "high" and _accuses_innocents(truth, verdict) for verdict in said),
    )


def judge_several(truths: Sequence[Truth], verdicts: Sequence[Verdict]) -> Outcome:
    """The same where several classes of hangs began at once: each is told by itself, and none besides."""
    if len(truths) == 1:
        return judge(truths[0], verdicts)
    told = {truth.anomaly: [each for each in verdicts if each.anomaly == truth.anomaly] for truth in truths}
    each = [judge(truth, told[truth.anomaly]) for truth in truths]
    everyone = Truth(
        "", [rank for truth in truths for rank in truth.guilty_ranks], [link for truth in truths for link in truth.guilty_links]
    )  # fmt: skip
    return Outcome(
        all(outcome.class_right for outcome in each) and {verdict.anomaly for verdict in verdicts} <= set(told),
        all(outcome.location_right for outcome in each),
        judge(everyone, verdicts).wrong_accusation,
    )


def total(outcomes: Collection[Outcome]) -> Score:
    runs = max(len(outcomes), 1)
    return Score(
        len(outcomes),
        sum(each.class_right for each in outcomes) / runs,
        sum(each.location_right for each in outcomes) / runs,
        sum(each.wrong_accusation for each in outcomes),
    )


def _there(truth: Truth, verdict: Verdict) -> bool:
    """The links of a guilty device are told beside its rank."""
    ranks = set(truth.guilty_ranks)
    links = {link for link in verdict.guilty_links if not {int(end) for end in link.split("-")} & ranks}
    return ranks == set(verdict.guilty_ranks) and links == set(truth.guilty_links)


def _accuses_innocents(truth: Truth, verdict: Verdict) -> bool:
    if not set(verdict.guilty_ranks) <= set(truth.guilty_ranks):
        return True
    links = set(verdict.guilty_links) - set(truth.guilty_links)
    return any(not {int(end) for end in link.split("-")} & set(truth.guilty_ranks) for link in links)
