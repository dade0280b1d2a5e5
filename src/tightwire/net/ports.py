"""A port for a server that starts later."""

from __future__ import annotations

import random
import socket

FIRST, LAST = 12_000, 32_000  # below those that the system gives to whoever asks for any: nobody gets it in the meantime


def free_port() -> int:
    """On all addresses of this host."""
    while True:
        port = random.randint(FIRST, LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
