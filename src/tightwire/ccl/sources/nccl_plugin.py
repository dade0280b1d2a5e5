"""What the NCCL profiler plugin wrote: its ring, its groups and its table of transfers.

The ring is the probe's (`ccl.probe.ring`), written by many threads: a record carries its number, counted from 1, in
`reserved` once it is whole. An operation's `seq` is its place among the collectives of its communicator; `shape` of an
ENTERED record is NCCL's own number of it, of a DONE record how long its slowest channel ran on the GPU, in ns (0: not known).
After the records comes a table of transfers, one entry of 64 bytes for each peer and direction.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from tightwire.ccl.inet_diag import Socket
from tightwire.ccl.probe.ring import FRAME, FRAMES, HEADER_BYTES, GroupFrame, read_new, read_state
from tightwire.ccl.transport import End
from tightwire.core.events import RECORD
from tightwire.errors import ConfigError

TRANSFERS = 4096
ADDRESS = "nccl:"  # begins that of a place in a communicator; no socket's does
MAX_GROUPS_BYTES = 16 * 2**20
MOST_QUEUED = 2**40  # bytes: a damaged ring may say anything
IN_FLIGHT = 64  # records that may be half written at a time: more threads than that do not call the plugin
SEND_WAITS = 9
STATES = {
    8: "send: waits for the GPU", SEND_WAITS: "send: waits for the network", 10: "receive: waits for the network",
    11: "receive: waits for the flush", 12: "receive: waits for the GPU", 20: "send: waits for the peer",
}  # fmt: skip
_TRANSFER = np.dtype(
    [(name, "<u8") for name in ("key", "bytes", "started", "done", "last_ns", "state", "state_ns", "waited_ns")]
)
_USED, _GROUP_BITS, _PEER_BITS = 1 << 63, (1 << 39) - 1, (1 << 22) - 1


class Communicator(msgspec.Struct, frozen=True):
    """One of this process: NCCL's id of it, the name it was given, this process's rank in it, its size."""

    group: int
    name: str
    rank: int
    size: int


class Transfer(msgspec.Struct, frozen=True):
    """What went between this rank and `peer` (a rank of `communicator`; None: it was done for another process) one way so far.
    `waits`: for what the newest step waits since `since_ns`; `waited_ns`: waits for the network, all together."""

    communicator: Communicator | None
    peer: int
    sends: bool
    bytes: int
    steps_started: int
    steps_done: int
    last_ns: int
    waits: str
    since_ns: int
    waited_ns: int

    @property
    def outstanding(self) -> int:
        """Steps that began and did not end."""
        return max(self.steps_started - self.steps_done, 0)

    @property
    def queued_bytes(self) -> int:
        """Of steps that wait for the network, taken to be as large as those before."""
        waits = self.sends and self.waits == STATES[SEND_WAITS]
        return min(self.outstanding * max(self.bytes // max(self.steps_done, 1), 1), MOST_QUEUED) if waits else 0


_NOTHING = Transfer(None, 0, True, 0, 0, 0, 0, "", 0, 0)


class PluginState(msgspec.Struct, frozen=True):
    """A process's communicators, where it is in each, and its transfers."""

    rank: int
    pid: int
    pid_start: int
    written: int
    communicators: list[Communicator]
    frames: list[GroupFrame]
    transfers: list[Transfer]


def library() -> Path:
    """The plugin's file, for `NCCL_PROFILER_PLUGIN`. Raises ConfigError where it was not built."""
    path = Path(str(resources.files("tightwire"))) / "libnccl-profiler-tightwire.so"
    if path.is_file():
        return path
    import tightwire._ring  # type: ignore[import-not-found,unused-ignore]  # an editable install keeps both elsewhere

    beside = Path(str(tightwire._ring.__file__)).with_name(path.name)
    if not beside.is_file():
        raise ConfigError(f"{path} is not there: this installation was made without native code; install it again")
    return beside


def read(path: Path) -> PluginState:
    """Raises ConfigError when `path` is not a ring of the plugin."""
    state = read_state(path)
    communicators = _communicators(path.with_suffix(".groups"))
    return PluginState(
        state.rank,
        state.pid,
        state.pid_start,
        state.written,
        communicators,
        state.frames,
        _transfers(path, communicators),
    )


def ends(folder: Path, pids: Mapping[int, int]) -> list[End]:
    """What these ranks (rank → process) exchange with others through NCCL's proxies, so far, as if there were a socket
    between each two places of a communicator: sent, received, `busy_s` while a step waited for the network. A rank without a
    ring of the plugin has none."""
    found = []
    for rank, pid in pids.items():
        with contextlib.suppress(OSError, ConfigError):
            found += [End(rank, "", each) for each in _sockets(read(folder / f"nccl-{pid}.ring").transfers)]
    return found


def _sockets(transfers: list[Transfer]) -> list[Socket]:
    told = {(each.communicator.group, each.communicator.rank, each.peer, each.sends): each for each in transfers if each.communicator}
    found = []
    for group, mine, peer in dict.fromkeys(key[:3] for key in told):
        sent, received = (told.get((group, mine, peer, sends), _NOTHING) for sends in (True, False))
        local, remote = (f"{ADDRESS}{group:x}:{place}" for place in (mine, peer))
        busy_s = sent.waited_ns / 1e9
        found.append(Socket(0, local, remote, sent.queued_bytes, False, 0, sent.bytes, received.bytes, busy_s))
    return found


def read_records(path: Path, seen: int) -> tuple[npt.NDArray[np.void], int]:
    """The whole records after the first `seen`, oldest first, and how many were seen now: those that are being written come
    with the next call."""
    records, written = read_new(path, seen)
    numbers = np.arange(written - len(records), written, dtype=np.uint64)
    whole = records["reserved"] == numbers + 1
    late = np.flatnonzero(~whole[-IN_FLIGHT:])
    if late.size:
        cut = max(len(records) - IN_FLIGHT, 0) + int(late[0])
        records, whole, written = records[:cut], whole[:cut], written - (len(records) - cut)
    return records[whole], written


def _communicators(path: Path) -> list[Communicator]:
    try:
        if path.stat().st_size > MAX_GROUPS_BYTES:
            raise ConfigError(f"{path} has {path.stat().st_size} bytes; at most {MAX_GROUPS_BYTES} are read")
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found: dict[int, Communicator] = {}
    for line in lines:
        try:
            told = json.loads(line)
            made = Communicator(int(told["group"]), str(told["name"]), int(told["rank"]), int(told["size"]))
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a process that was killed
        found[made.group] = made
    return list(found.values())


def _transfers(path: Path, communicators: list[Communicator]) -> list[Transfer]:
    size, capacity = path.stat().st_size, _capacity(path)
    start = HEADER_BYTES + FRAMES * FRAME.itemsize + capacity * RECORD.itemsize
    if size != start + TRANSFERS * _TRANSFER.itemsize:
        raise ConfigError(f"{path} is not a ring of the NCCL plugin: {size} bytes; give a file nccl-PID.ring")
    with path.open("rb") as file:
        file.seek(start)
        table = np.frombuffer(file.read(TRANSFERS * _TRANSFER.itemsize), _TRANSFER)
    by_bits = {each.group & _GROUP_BITS: each for each in communicators}
    found = []
    for row in table[(table["key"] & _USED) != 0]:
        key = int(row["key"])
        if key & 2:  # counts the point-to-point calls of a pair
            continue
        found.append(
            Transfer(
                by_bits.get(key >> 24 & _GROUP_BITS), key >> 2 & _PEER_BITS, bool(key & 1), int(row["bytes"]),
                int(row["started"]), int(row["done"]), int(row["last_ns"]),
                STATES.get(int(row["state"]), "") if row["started"] > row["done"] else "",
                int(row["state_ns"]), int(row["waited_ns"]),
            )
        )  # fmt: skip
    return sorted(found, key=lambda each: (each.communicator.group if each.communicator else 0, each.peer, each.sends))


def _capacity(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(16)[12:16], "little")
