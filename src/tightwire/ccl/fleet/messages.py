"""What agents and collectors say to each other, as MessagePack. Nothing is believed: sizes and ranges are checked before
memory is taken, and what is no message is a LinkError.

A report has a number, one more than the agent's last. The collector says which it wants next, so whatever is lost on
the way goes again, and what arrives twice is dropped.
"""

from __future__ import annotations

import math

import msgspec
import zstandard

from tightwire.ccl.evidence import Evidence
from tightwire.ccl.summary import Summary
from tightwire.ccl.throttling import Throttling
from tightwire.ccl.transport import End
from tightwire.core.events import RECORD
from tightwire.errors import LinkError
from tightwire.net.messages import decode

VERSION = 1
MAX_MESSAGE_BYTES = 16 * 2**20
MAX_SUMMARY_BYTES = 128 * 2**20  # of one report when unpacked: a host's rings, all full
MAX_NAME_CHARS = 256
MAX_RANKS, MAX_RANK, MAX_GROUPS, MAX_UNSEEN = 4096, 2**20, 2**18, 256
MAX_ENDS = 2**17
_UNSIGNED = 2**64
_WHAT = "a message of agents and collectors"


class About(msgspec.Struct, frozen=True, array_like=True):
    """Who sends: an agent of `job` on `host`. `run` is another number after a restart of the agent."""

    job: str
    host: str
    run: int


class Hello(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """First, and again when nothing was heard for a while. `sent_s` by the agent's clock."""

    version: int
    about: About
    sent_s: float


class Report(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """One look, packed in `body`. `after` which other it was made, None for the first that is sent or the oldest that is left. `behind`: how many later ones the agent has; `dropped`: how many it had to give up so
    far, never delivered."""

    about: About
    number: int
    after: int | None
    behind: int
    dropped: int
    sent_s: float
    body: bytes


class Answer(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """To the question with that `number`: what was asked for, or None."""

    about: About
    number: int
    evidence: Evidence | None = None
    throttling: Throttling | None = None
    ends: list[End] = []
    reached: list[str] | None = None


class Bye(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The agent ends in order."""

    about: About


class Welcome(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The collector, which wants report `next`; None: it knows nothing yet and takes what the agent has of the last
    `replay_s`, `replay_bytes` at most."""

    next: int | None
    replay_s: float
    replay_bytes: int


class Taken(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """All before report `next` are here."""

    next: int


class Ask(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """`what`: "evidence", "throttling" of a process, whether it "reaches" `addresses` of its peers, or the "ends" of the
    connections of `pids` (rank → process)."""

    number: int
    host: str
    what: str
    pid: int = 0
    pid_start: int = 0
    pids: dict[int, int] = {}
    addresses: list[str] = []


class Body(msgspec.Struct, frozen=True, array_like=True):
    """`unknown`: ranks whose state cannot be seen any more, and why."""

    summary: Summary
    unknown: dict[int, str] = {}


ToCollector = Hello | Report | Answer | Bye
ToAgent = Welcome | Taken | Ask
_TO_COLLECTOR = msgspec.msgpack.Decoder(ToCollector)
_TO_AGENT = msgspec.msgpack.Decoder(ToAgent)
_BODY = msgspec.msgpack.Decoder(Body)
_PACK = zstandard.ZstdCompressor(level=1)
encode = msgspec.msgpack.encode


def decode_to_collector(data: bytes | memoryview) -> ToCollector:
    """Raises LinkError for anything that is not one of the messages above or is out of range."""
    message: ToCollector = decode(_TO_COLLECTOR, data, MAX_MESSAGE_BYTES, _WHAT)
    about = message.about
    if not (0 < len(about.job) <= MAX_NAME_CHARS and 0 < len(about.host) <= MAX_NAME_CHARS):
        raise LinkError(f"a name of {len(about.job)} or {len(about.host)} characters; the limit is {MAX_NAME_CHARS}")
    if isinstance(message, Hello) and message.version != VERSION:
        raise LinkError(f"version {message.version} of the protocol; this side speaks {VERSION}")
    if not math.isfinite(getattr(message, "sent_s", 0.0)):
        raise LinkError("a time that is none")
    if isinstance(message, Report) and min(message.number, message.behind, message.dropped) < 0:
        raise LinkError("a report with a negative number")
    if isinstance(message, Answer) and len(message.ends) > MAX_ENDS:
        raise LinkError(f"{len(message.ends)} connections; the limit is {MAX_ENDS}")
    return message


def decode_to_agent(data: bytes | memoryview) -> ToAgent:
    """Raises LinkError likewise."""
    message: ToAgent = decode(_TO_AGENT, data, MAX_MESSAGE_BYTES, _WHAT)
    if isinstance(message, Welcome) and not math.isfinite(message.replay_s):
        raise LinkError("a time that is none")
    return message


def pack(body: Body) -> bytes:
    return _PACK.compress(msgspec.msgpack.encode(body))


def unpack(data: bytes) -> Body:
    """Raises LinkError when it is none, or larger than a host's could be."""
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= MAX_SUMMARY_BYTES:
            raise LinkError(f"a report of {size} bytes; the limit is {MAX_SUMMARY_BYTES}")
        body = _BODY.decode(zstandard.ZstdDecompressor().decompress(data))
    except (zstandard.ZstdError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LinkError(f"not a report: {error}") from error
    wrong = _wrong(body.summary)
    if wrong:
        raise LinkError(f"not a report: {wrong}")
    return body


def _wrong(summary: Summary) -> str | None:
    """What is out of range: these numbers index arrays and are kept for long."""
    if (
        not math.isfinite(summary.at_s)
        or max(len(summary.ranks) / MAX_RANKS, len(summary.groups) / MAX_GROUPS, len(summary.unseen) / MAX_UNSEEN) > 1
    ):
        return f"{len(summary.ranks)} ranks, {len(summary.groups)} groups at {summary.at_s}"
    for sample in summary.ranks:
        if not 0 <= sample.rank < MAX_RANK or not 0 <= sample.written < _UNSIGNED:
            return f"rank {sample.rank} with {sample.written} records"
        if len(sample.records) % RECORD.itemsize:
            return f"{len(sample.records)} bytes of records"
    for facts in summary.groups:
        if not 0 <= facts.group < _UNSIGNED or not all(0 <= rank < MAX_RANK for rank in facts.ranks):
            return f"group {facts.group}"
    return None
