"""Digests of small hosts, and the messages that carry them."""

from tightwire.ccl.digest import Digest
from tightwire.ccl.fleet.messages import About, Report, pack
from tightwire.ccl.packing import Packer
from tightwire.ccl.probe.process import ProcessState
from tightwire.ccl.probe.ring import GroupFrame
from tightwire.ccl.summary import GroupFacts, RankSample, Summary

WORLD = GroupFacts(1, "world", [0, 1, 2, 3])


def sample(
    rank: int, entered: int = 0, done: int | None = None, *, pid_start: int = 100, alive: bool = True, state: str = "S", at_s: float = 0.0
) -> RankSample:  # fmt: skip
    frames = [GroupFrame(1, entered, int(at_s * 1e9), entered if done is None else done, 1)] if entered else []
    written = entered + (entered if done is None else done)
    process = ProcessState(state, 1.0) if alive else None
    return RankSample(rank, 4, 1000 + rank, pid_start, 0, written, frames, process)


def digest(at_s: float, *ranks: RankSample, host: str = "", unknown: dict[int, str] | None = None) -> Digest:
    return Packer().digest(Summary(host, at_s, list(ranks), [WORLD], unknown=unknown or {}))


def report(
    host: str, number: int, at_s: float, *ranks: RankSample, run: int = 1, behind: int = 0, dropped: int = 0,
    sent_s: float | None = None, unknown: dict[int, str] | None = None,
) -> Report:  # fmt: skip
    body = pack(digest(at_s, *ranks, unknown=unknown))
    return Report(
        About("job", host, run),
        number,
        number - 1 if number else None,
        behind,
        dropped,
        at_s if sent_s is None else sent_s,
        body,
    )
