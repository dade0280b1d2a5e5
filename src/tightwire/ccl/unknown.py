"""Ranks whose state cannot be seen any more: their host is not heard of, their ring is damaged. What is not known is not
held against others, and nobody is accused of it with high confidence."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tightwire.ccl.summary import RankSample
from tightwire.ccl.verdict import Verdict


def settled(sample: RankSample) -> RankSample:
    """As it was last seen, without what it waited in: whether it still does is not known."""
    frames = [msgspec.structs.replace(each, done_count=each.entered_seq, waiting=0) for each in sample.frames]
    return msgspec.structs.replace(sample, frames=frames, records=b"")


def doubted(verdict: Verdict, unknown: Mapping[int, str]) -> Verdict:
    """`verdict`, of low confidence where it names ranks that are `unknown` (rank → why)."""
    named = {*verdict.guilty_ranks, *(int(end) for link in verdict.guilty_links for end in link.split("-"))}
    why = list(dict.fromkeys(unknown[rank] for rank in sorted(named) if rank in unknown))
    if not why or verdict.ended_s is not None:
        return verdict
    hidden = sorted(named & set(unknown))
    told = [
        f"what rank{'s' if len(hidden) > 1 else ''} {', '.join(map(str, hidden))} did since is not known: {each}"
        for each in why
    ]
    cause = "; ".join(why) if set(verdict.guilty_ranks) <= set(unknown) else f"{verdict.cause}; {'; '.join(why)}"
    return msgspec.structs.replace(verdict, confidence="low", cause=cause, evidence=[*verdict.evidence, *told])
