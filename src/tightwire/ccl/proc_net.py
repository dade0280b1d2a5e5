"""/proc/PID/net/tcp (proc(5)): the TCP sockets of a process's network namespace where inet_diag may not be asked. Queues and
retransmissions, no byte counts."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from tightwire.ccl.inet_diag import ESTABLISHED, RESEND, Socket, address


def established(pid: int, proc: Path = Path("/proc")) -> list[Socket]:
    """Empty where nothing can be read."""
    found = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / str(pid) / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[3], 16) == ESTABLISHED:
                    queued = int(fields[4].split(":")[0], 16)
                    resending = int(fields[5].split(":")[0], 16) == RESEND
                    local, remote = _address(fields[1]), _address(fields[2])
                    tries = int(fields[6], 16)
                    found.append(Socket(int(fields[9]), local, remote, queued, resending, tries))
    return found


def _address(text: str) -> str:
    """`0100007F:1F90`, in words of the host's byte order, as `127.0.0.1:8080`."""
    number, port = text.split(":")
    words = [int(number[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(number), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return address(family, b"".join(words), int(port, 16))
