"""What agents and collectors say to each other, as MessagePack. Nothing is believed: sizes and ranges are checked before
memory is taken, and what is no message is a LinkError.

A report has a number, one more than the agent's last. The collector says which it wants next, so whatever is lost on
the way goes again, and what arrives twice is dropped.
"""

from __future__ import annotations

import math
import threading

import msgspec
import zstandard

from tightwire.ccl import digest
from tightwire.ccl.digest import Digest
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.summary import GroupFacts
from tightwire.ccl.throttling import Throttling
from tightwire.ccl.transport import End
from tightwire.errors import LinkError
from tightwire.net.messages import decode

VERSION = 3
MAX_MESSAGE_BYTES = 16 * 2**20
MAX_NAME_CHARS = 256
MAX_ENDS = 2**17
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
    """The digest of one look, packed in `body`. `after` which other it was made, None for the first that is sent or the
    oldest that is left. `behind`: how many later ones the agent has; `dropped`: how many it had to give up so far, never
    delivered."""

    about: About
    number: int
    after: int | None
    behind: int
    dropped: int
    sent_s: float
    body: bytes


class Answer(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """To the question with that `number`: `Findings`, packed in `body`."""

    about: About
    number: int
    body: bytes


class Findings(msgspec.Struct, frozen=True, array_like=True):
    """What was asked for; of the rest, and where it cannot be told, nothing."""

    evidence: Evidence | None = None
    throttling: Throttling | None = None
    ends: list[End] = []
    reached: list[str] | None = None
    groups: list[GroupFacts] = []


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
    """`what`: "evidence", "throttling" of a process, whether it "reaches" `addresses` of its peers, the "ends" of the
    connections of `pids` (rank → process), or what is known of `groups`."""

    number: int
    host: str
    what: str
    pid: int = 0
    pid_start: int = 0
    pids: dict[int, int] = {}
    addresses: list[str] = []
    groups: list[int] = []


ToCollector = Hello | Report | Answer | Bye
ToAgent = Welcome | Taken | Ask
_TO_COLLECTOR = msgspec.msgpack.Decoder(ToCollector)
_TO_AGENT = msgspec.msgpack.Decoder(ToAgent)
_FINDINGS = msgspec.msgpack.Decoder(Findings)


class _Zstd(threading.local):
    """Of each thread its own: none of it may be used by two at once, and making it takes longer than using it."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()
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
    return message


def decode_to_agent(data: bytes | memoryview) -> ToAgent:
    """Raises LinkError likewise."""
    message: ToAgent = decode(_TO_AGENT, data, MAX_MESSAGE_BYTES, _WHAT)
    if isinstance(message, Welcome) and not math.isfinite(message.replay_s):
        raise LinkError("a time that is none")
    return message


def pack(told: Digest) -> bytes:
    return _zstd.compressor.compress(digest.encode(told))


def unpack(data: bytes) -> Digest:
    """Raises LinkError when it is none, or larger than a host's could be."""
    return digest.decode(_unzipped(data))


def pack_findings(found: Findings) -> bytes:
    return _zstd.compressor.compress(encode(found))


def unpack_findings(data: bytes) -> Findings:
    """Raises LinkError when they are none, or more than a host's could be."""
    found: Findings = decode(_FINDINGS, _unzipped(data), digest.MAX_BYTES, "an answer")
    if len(found.ends) > MAX_ENDS:
        raise LinkError(f"{len(found.ends)} connections; the limit is {MAX_ENDS}")
    digest.check_groups(found.groups)
    return found


def _unzipped(data: bytes) -> bytes:
    """Raises LinkError."""
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= digest.MAX_BYTES:
            raise LinkError(f"a body of {size} bytes; the limit is {digest.MAX_BYTES}")
        return _zstd.decompressor.decompress(data)
    except zstandard.ZstdError as error:
        raise LinkError(f"not a body: {error}") from error
