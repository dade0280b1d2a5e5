"""A port for a server that starts later."""

import random
import socket


def free_port() -> int:
    """Below those that the system gives to whoever asks for any, so that nobody gets it in the meantime."""
    while True:
        port = random.randint(12_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
