"""Dumps of live processes, asked for.

| where | what is asked | backend |
|---|---|---|
| `*.sock`, or an address of HTTP | torch's worker server (`torch.distributed.elastic.control_plane`), a POST | gloo, and what torch records on the CPU side |
| `*.pipe` | `TORCH_NCCL_DEBUG_INFO_PIPE_FILE`: a byte written; the dump comes as a file | NCCL |

The worker server answers from a thread of its own and without Python's lock: a rank that hangs in Python still answers; one
that is stopped does not.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tightwire.ccl.sources.flight_recorder.dump import parse
from tightwire.ccl.sources.flight_recorder.folder import MOST_BYTES, DumpSet
from tightwire.ccl.sources.flight_recorder.plain_pickle import DumpError
from tightwire.errors import ConfigError

HANDLER = "/handler/fr_trace_json"
TIMEOUT_S = 5.0
_RANK = re.compile(r"(\d+)\.(sock|pipe)$")


def servers(folder: Path) -> dict[int, str]:
    """Rank → the worker server's socket, by the names of the sockets in `folder`: `worker_3.sock`."""
    return {rank: str(path) for rank, path in _special(folder, ".sock", stat.S_ISSOCK)}


def addresses(given: Sequence[str]) -> dict[int, str]:
    """Rank → `HOST:PORT`, as they are given: in the order of the ranks. Raises ConfigError."""
    found = {}
    for rank, text in enumerate(given):
        parts = urlsplit(text)
        with contextlib.suppress(ValueError):
            if parts.scheme == "http" and parts.hostname and parts.port:
                found[rank] = text
        if rank not in found:
            raise ConfigError(f"where: {text!r} is no folder and no address like http://host:port of a worker server")
    return found


def ask(where: dict[int, str]) -> DumpSet:
    """A dump of each server that answers; the others are told in `unread`."""
    found = DumpSet()
    for rank, target in where.items():
        try:
            found.dumps[rank] = parse(_post(target))
        except (OSError, http.client.HTTPException) as silent:
            found.unread.append(f"rank {rank} does not answer at {target}: {silent or type(silent).__name__}")
        except DumpError as refused:
            found.unread.append(f"rank {rank}: {refused}")
            found.damaged.add(rank)
    return found


def ring(folder: Path) -> int:
    """Ask through the pipes in `folder`; how many were there to listen."""
    asked = 0
    for _, path in _special(folder, ".pipe", stat.S_ISFIFO):
        with contextlib.suppress(OSError):  # nobody listens: the process is gone
            pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            try:
                asked += os.write(pipe, b"1")
            finally:
                os.close(pipe)
    return asked


def _special(folder: Path, ending: str, is_one: Callable[[int], bool]) -> list[tuple[int, Path]]:
    found = []
    for path in sorted(folder.iterdir()):
        name = _RANK.search(path.name)
        if name is not None and path.name.endswith(ending) and is_one(path.stat().st_mode):
            found.append((int(name[1]), path))
    return found


def _post(target: str) -> bytes:
    """The answer's body; no more of it than a dump may have."""
    parts = urlsplit(target)
    connection = (
        http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        if parts.scheme == "http"
        else _UnixConnection(target)
    )
    with contextlib.closing(connection):
        connection.request("POST", HANDLER)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise http.client.HTTPException(f"status {answer.status}; this torch has no {HANDLER}")
        body = answer.read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            raise DumpError(f"its dump is larger than {MOST_BYTES >> 20} MiB")
        return body


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)
