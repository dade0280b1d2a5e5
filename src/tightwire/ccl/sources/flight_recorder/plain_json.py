"""JSON that may end too early: what stands in it, closed after the last value that is whole."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from tightwire.ccl.sources.flight_recorder.plain_pickle import MOST_DEPTH, DumpError

_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*"|"|[\[\]{},]', re.DOTALL)
_CLOSING = {b"[": b"]", b"{": b"}"}


def loads(data: bytes) -> tuple[Any, bool]:
    """What `data` says, and whether it was whole. Raises DumpError."""
    try:
        return msgspec.json.decode(data), True
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
        try:
            return msgspec.json.decode(_closed(data)), False
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError):
            raise DumpError(f"it is no JSON: {broken}") from broken


def _closed(data: bytes) -> bytes:
    """Up to the last comma or opening bracket, with what is open there closed. Raises IndexError where more is closed than
    was opened."""
    open_ones: list[bytes] = []
    end, closing = 0, b""
    for found in _MARKS.finditer(data):
        mark = found[0]
        if mark == b'"':
            break  # a text without its end
        if mark in _CLOSING:
            open_ones.append(_CLOSING[mark])
            end, closing = found.end(), b"".join(reversed(open_ones))
        elif mark in (b"]", b"}"):
            open_ones.pop()
            end, closing = found.end(), b"".join(reversed(open_ones))
        elif mark == b",":
            end, closing = found.start(), b"".join(reversed(open_ones))
        if len(open_ones) > MOST_DEPTH:
            raise DumpError(f"it nests deeper than {MOST_DEPTH}")
    return data[:end] + closing
