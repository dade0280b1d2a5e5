"""Ranks whose state cannot be seen any more: their host is not heard of, their ring is damaged. Nobody is accused of what is
not known with high confidence."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tightwire.ccl.verdict import Verdict


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
