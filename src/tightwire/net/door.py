"""Who may come in: the answering side of ZAP (https://rfc.zeromq.org/spec/27/) for a list of CURVE public keys."""

from __future__ import annotations

import zmq
from zmq.utils import z85

_ENDPOINT = "inproc://zeromq.zap.01"
_VERSION, _CURVE = b"1.0", b"CURVE"
_PARTS = 7  # version, request, domain, address, identity, mechanism, key


class Door:
    """Decides for all sockets of `context`; poll `socket` and call `answer` when it has something."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], authorized: frozenset[bytes]) -> None:
        self._authorized = authorized
        self.socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(_ENDPOINT)

    def answer(self) -> None:
        """Let one client in or not."""
        parts = self.socket.recv_multipart()
        request = parts[1] if len(parts) > 1 else b""
        known = (
            len(parts) == _PARTS
            and parts[0] == _VERSION
            and parts[5] == _CURVE
            and z85.encode(parts[6]) in self._authorized
        )
        status = (b"200", b"OK", b"client") if known else (b"400", b"not authorized", b"")
        self.socket.send_multipart([_VERSION, request, *status, b""])

    def close(self) -> None:
        self.socket.close()
