"""A shaped link in user space, for machines where no network namespace can be made: a TCP relay with a rate."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

from tightwire.core.clock import Clock, MonotonicClock

_PIECE_BYTES = 16384


class TokenBucket:
    """At most `bytes_per_s`, with at most `burst_bytes` saved up; None is no limit."""

    def __init__(self, bytes_per_s: float | None, burst_bytes: int = 32768, clock: Clock | None = None) -> None:
        self.bytes_per_s, self.burst_bytes = bytes_per_s, burst_bytes
        self._clock = clock or MonotonicClock()
        self._tokens, self._then_s = float(burst_bytes), self._clock.now_s()

    def take(self, count: int) -> None:
        """Wait until `count` bytes may pass."""
        if self.bytes_per_s is None:
            return
        now_s = self._clock.now_s()
        self._tokens = min(self._tokens + (now_s - self._then_s) * self.bytes_per_s, self.burst_bytes)
        self._then_s = now_s
        self._tokens -= count
        if self._tokens < 0:
            self._clock.sleep_s(-self._tokens / self.bytes_per_s)


class ShapedLink:
    """Listens on a local port and relays to `target`; what clients send is held to `bytes_per_s`, answers are not."""

    def __init__(self, target: tuple[str, int], bytes_per_s: float | None) -> None:
        self._target = target
        self.bucket = TokenBucket(bytes_per_s)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="tightwire-shaper", daemon=True).start()

    def set_rate(self, bytes_per_s: float | None) -> None:
        """Change the rate while traffic flows."""
        self.bucket.bytes_per_s = bytes_per_s

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
                # A small receive buffer: otherwise the kernel takes megabytes in before the relay slows anybody down.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                peer = socket.create_connection(self._target)
            except OSError:
                return
            for end in (client, peer):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open += [client, peer]
            for source, sink, bucket in ((client, peer, self.bucket), (peer, client, None)):
                threading.Thread(target=self._relay, args=(source, sink, bucket), daemon=True).start()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket, bucket: TokenBucket | None) -> None:
        with contextlib.suppress(OSError):  # one end closed or was reset
            while piece := source.recv(_PIECE_BYTES):
                if bucket is not None:
                    bucket.take(len(piece))
                sink.sendall(piece)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)  # the other end must notice

    def close(self) -> None:
        # A thread blocked in accept holds the listening socket open: shutdown wakes it.
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        with self._lock:
            for end in self._open:
                end.close()

    def __enter__(self) -> ShapedLink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
