"""Pickles of plain data: an interpreter of the opcodes that build numbers, texts, lists, dicts, sets and tuples.

An opcode that could import, call or construct anything is refused by name. A file that ends too early gives what stands
in it, closed at that point. Opcodes: https://docs.python.org/3/library/pickletools.html
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from tightwire.errors import TightwireError

MOST_DEPTH = 64  # a dump nests six deep
_MOST_LONG_BYTES = 16
_FIXED = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_TEXTS = {b"X": "<I", b"\x8c": "<B", b"\x8d": "<Q"}
_BYTES = {b"B": "<I", b"C": "<B", b"\x8e": "<Q", b"U": "<B", b"T": "<I"}
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_EMPTY: dict[bytes, Callable[[], object]] = {b"}": dict, b"]": list, b")": tuple, b"\x8f": set}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_REFUSED = {
    b"c": "GLOBAL",
    b"\x93": "STACK_GLOBAL",
    b"i": "INST",
    b"o": "OBJ",
    b"R": "REDUCE",
    b"\x81": "NEWOBJ",
    b"\x92": "NEWOBJ_EX",
    b"b": "BUILD",
    b"P": "PERSID",
    b"Q": "BINPERSID",
    b"\x82": "EXT1",
    b"\x83": "EXT2",
    b"\x84": "EXT4",
}


class DumpError(TightwireError, ValueError):
    """A file is not a dump that we read; the message says why."""


class _EndError(Exception):
    """The bytes end."""


def loads(data: bytes) -> tuple[Any, bool]:
    """What `data` pickles, and whether it was whole. Raises DumpError."""
    machine = _Machine(data)
    try:
        while not machine.step():
            pass
    except _EndError:
        return machine.close(), False
    except DumpError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, struct.error) as broken:
        raise DumpError(f"it is no pickle: byte {machine.at} makes no sense") from broken
    return machine.stack[-1], True


class _Machine:
    """A pickle machine: `stack` is what is being built; `below` holds the stacks that a MARK has put aside."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise _EndError
        taken, self.at = self.data[self.at : end], end
        return taken

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def step(self) -> bool:
        """One opcode; true at its STOP."""
        op, stack = self.take(1), self.stack
        if op in _FIXED:
            stack.append(self.number(_FIXED[op]))
        elif op in _TEXTS:
            stack.append(self.take(self.number(_TEXTS[op])).decode("utf-8", "surrogatepass"))
        elif op in (b"h", b"j"):
            stack.append(self.memo[self.number("<B" if op == b"h" else "<I")])
        elif op in (b"q", b"r", b"\x94"):
            self.memo[len(self.memo) if op == b"\x94" else self.number("<B" if op == b"q" else "<I")] = stack[-1]
        elif op in _EMPTY:
            stack.append(_EMPTY[op]())
        elif op == b"(":
            self.mark()
        elif op in b"eutld\x90":
            self.gather(op)
        elif op == b"a":
            value = stack.pop()
            stack[-1].append(value)
        elif op == b"s":
            value, key = stack.pop(), stack.pop()
            stack[-1][_key(key)] = value
        elif op in _TUPLES:
            count = _TUPLES[op]
            values = tuple(stack[-count:])
            if len(values) < count:
                raise IndexError
            stack[-count:] = [values]
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op in _BYTES:
            stack.append(self.take(self.number(_BYTES[op])))
        elif op in (b"\x8a", b"\x8b"):
            count = self.number("<B" if op == b"\x8a" else "<I")
            if count > _MOST_LONG_BYTES:
                raise DumpError(f"it holds a number of {count} bytes")
            stack.append(int.from_bytes(self.take(count), "little", signed=True))
        elif op in (b"\x80", b"\x95"):
            self.take(1 if op == b"\x80" else 8)
        elif op == b".":
            return bool(stack[-1:]) or self.nothing()
        else:
            self.refuse(op)
        return False

    def mark(self) -> None:
        if len(self.below) == MOST_DEPTH:
            raise DumpError(f"it nests deeper than {MOST_DEPTH}")
        self.below.append(self.stack)
        self.stack = []

    def gather(self, op: bytes) -> None:
        """What stands above the last MARK goes where `op` says."""
        values, self.stack = self.stack, self.below.pop()
        if op == b"t":
            self.stack.append(tuple(values))
        elif op == b"l":
            self.stack.append(values)
        elif op == b"d":
            self.stack.append({_key(k): v for k, v in zip(values[::2], values[1::2], strict=True)})
        elif op == b"e":
            self.stack[-1].extend(values)
        elif op == b"u":
            self.stack[-1].update({_key(k): v for k, v in zip(values[::2], values[1::2], strict=True)})
        else:
            self.stack[-1].update(map(_key, values))

    def close(self) -> Any:
        """The value as far as it got."""
        while self.below:
            values, self.stack = self.stack, self.below.pop()
            owner = self.stack[-1] if self.stack else None
            if isinstance(owner, dict):
                pairs = zip(values[::2], values[1::2], strict=False)
                owner.update({k: v for k, v in pairs if isinstance(k, str | int)})
            elif isinstance(owner, list):
                owner.extend(values)
        return self.stack[0] if self.stack else None

    def nothing(self) -> bool:
        raise IndexError

    def refuse(self, op: bytes) -> None:
        name = _REFUSED.get(op)
        if name is None:
            raise DumpError(f"opcode {op!r} at byte {self.at - 1} belongs to no dump")
        what = ""
        if op == b"c":
            what = ".".join(self.data[self.at : self.at + 200].decode("utf-8", "replace").split("\n")[:2])
        elif op == b"\x93":
            what = ".".join(str(part)[:80] for part in self.stack[-2:])
        asks = f"asks for {what}" if what else "would run code"
        raise DumpError(f"refused: it {asks} ({name} at byte {self.at - 1}); a dump holds plain data only")


def _key(value: Any) -> str | int | float | bool | bytes | None:
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    raise TypeError
