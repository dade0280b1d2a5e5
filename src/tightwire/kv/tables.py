"""Tables: what a calibrated stage derived from a model's KV, held by sender and receiver alike.

A table is named after its kind and content (`pca-1f0c…`), so a strategy that names it means exactly these numbers:
a receiver either has them or refuses the frame. Files are MessagePack, `NAME.table`; they are searched in the folders
of `TIGHTWIRE_TABLES` (separated by `:`), then in the package.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from tightwire.errors import ConfigError, TightwireError

VERSION = 1
MAX_BYTES = 2**30
_DTYPES = {"u1", "u2", "u4", "i4", "f4"}
_PACKAGED = Path(__file__).parent / "calibrated"
_held: dict[str, Table] = {}


class MissingTableError(TightwireError):
    """A strategy names a table that this side does not hold."""


class Array(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, eq=False):
    """`kind`: the stage it belongs to; `model`: the fingerprint it was calibrated on; `arrays` by name."""

    version: int
    kind: str
    model: str
    arrays: dict[str, Array]

    @classmethod
    def make(cls, kind: str, model: str, **arrays: npt.NDArray[np.generic]) -> Table:
        """A table of `arrays` (uint8/16/32, int32 or fp32), held from now on."""
        packed = {}
        for name, values in sorted(arrays.items()):
            code = values.dtype.kind + str(values.dtype.itemsize)
            if code not in _DTYPES:
                raise ConfigError(f"table {kind}: {name} is {values.dtype}; use one of {', '.join(sorted(_DTYPES))}")
            little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
            packed[name] = Array(code, tuple(values.shape), little.tobytes())
        table = cls(VERSION, kind, model, packed)
        _held[table.name] = table
        return table

    @property
    def name(self) -> str:
        """Kind and a hash of the content."""
        return f"{self.kind}-{xxhash.xxh3_64_hexdigest(msgspec.msgpack.encode(self))}"

    def array(self, name: str) -> npt.NDArray[np.generic]:
        """The array called `name`, read-only; ConfigError when the table has none."""
        if name not in self.arrays:
            raise ConfigError(f"table {self.name} has no array {name!r}; it has {', '.join(self.arrays)}")
        packed = self.arrays[name]
        return np.frombuffer(packed.data, "<" + packed.dtype).reshape(packed.shape)

    def save(self, folder: Path) -> Path:
        """Write `folder`/NAME.table, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.table"
        part = path.with_suffix(f".part{os.getpid()}")
        part.write_bytes(msgspec.msgpack.encode(self))
        part.replace(path)
        return path


def load(path: Path) -> Table:
    """The table in the file `path`, held from now on. ConfigError says what is wrong with the file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"table {path} has {path.stat().st_size} bytes; the limit is {MAX_BYTES}")
        table = msgspec.msgpack.decode(path.read_bytes(), type=Table)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"table {path}: {error}; calibrate it again") from error
    if table.version != VERSION:
        raise ConfigError(f"table {path}: version {table.version} is not {VERSION}; update the older side")
    for name, array in table.arrays.items():
        if array.dtype not in _DTYPES or min(array.shape, default=0) < 0:
            raise ConfigError(f"table {path}: array {name} is {array.dtype} {array.shape}")
        size = int(array.dtype[1:])
        for length in array.shape:
            size *= length
        if size != len(array.data):
            raise ConfigError(f"table {path}: array {name} takes {size} bytes, the file holds {len(array.data)}")
    if table.name != path.stem:
        raise ConfigError(f"table {path}: its content is that of {table.name}; it was damaged or renamed")
    _held[table.name] = table
    return table


def find(name: str, kind: str) -> Table:
    """The table called `name`; MissingTableError when it is not held and in no folder, or of another `kind`."""
    table = _held.get(name)
    if table is None:
        folders = [Path(folder) for folder in os.environ.get("TIGHTWIRE_TABLES", "").split(":") if folder]
        path = next((f / f"{name}.table" for f in (*folders, _PACKAGED) if (f / f"{name}.table").is_file()), None)
        if path is None:
            raise MissingTableError(f"table {name!r} is not here; copy NAME.table into a folder of TIGHTWIRE_TABLES")
        table = load(path)
    if table.kind != kind:
        raise MissingTableError(f"table {name!r} belongs to the stage {table.kind!r}, not to {kind!r}")
    return table
