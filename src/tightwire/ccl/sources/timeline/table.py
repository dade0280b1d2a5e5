"""Tables of operations, a row each: CSV, and Parquet through pyarrow."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tightwire.ccl.sources.timeline.columns import TIMES, Columns
from tightwire.ccl.sources.timeline.operations import Operation
from tightwire.errors import ConfigError

_ALL = "all ranks"
_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def read_csv(path: Path, columns: Columns, rank: int | None) -> Iterator[Operation]:
    """`rank`: whose table it is if no column says so. Raises ConfigError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            names = next(rows, [])
            table: dict[str, list[Any]] = {name.strip(): [] for name in names}
            for row in rows:
                if row and len(row) != len(names):
                    raise ConfigError(
                        f"{path.name}: line {rows.line_num} has {len(row)} fields, its header {len(names)}"
                    )
                for values, value in zip(table.values(), row, strict=False):
                    values.append(value)
    except (UnicodeDecodeError, csv.Error) as broken:
        raise ConfigError(f"{path.name} is no CSV file: {broken}") from broken
    yield from _operations(table, columns, path.name, rank)


def read_parquet(path: Path, columns: Columns, rank: int | None) -> Iterator[Operation]:
    """As `read_csv`."""
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as missing:
        raise ConfigError(
            f"{path.name}: a Parquet file needs pyarrow, which is not installed; pip install 'tightwire[timeline]', or give a "
            "CSV file"
        ) from missing
    try:
        read = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as broken:
        raise ConfigError(f"{path.name} is no Parquet file: {broken}") from broken
    table = {}
    for name in read.column_names:
        column = read.column(name)
        values = column.to_pylist()
        if arrow.types.is_timestamp(column.type) or arrow.types.is_duration(column.type):
            values = [count / _PER_S[column.type.unit] for count in column.cast(arrow.int64()).to_pylist()]
        table[name] = values
    yield from _operations(table, columns, path.name, rank)


def _operations(
    table: Mapping[str, Sequence[Any]], columns: Columns, where: str, rank: int | None
) -> Iterator[Operation]:
    found = columns.find(table.keys(), where)
    if "rank" not in found and rank is None:
        raise ConfigError(f"columns: {where} has no column for rank; say which it is with --columns rank=COLUMN")
    times = {
        meaning: _times(table[found[meaning]], meaning, found, columns, where) for meaning in TIMES if meaning in found
    }
    count = len(times["start"])
    numbers = {
        meaning: _whole(table[found[meaning]], found[meaning], where)
        for meaning in ("rank", "step", "sequence", "size")
        if meaning in found
    }
    ranks = numbers.get("rank", [rank] * count)
    nothing: list[int | None] = [None] * count
    for at, start_s in enumerate(times["start"]):
        end_s = times["end"][at] if "end" in times else start_s + times["duration"][at]
        of = ranks[at]
        if of is None or of < 0 or end_s < start_s:
            raise ConfigError(f"{where}: row {at + 1} has no rank, or ends before it starts")
        yield Operation(
            of, str(table[found["group"]][at]) if "group" in found else _ALL, str(table[found["op"]][at]), start_s, end_s,
            numbers.get("size", nothing)[at] or 0, numbers.get("step", nothing)[at], numbers.get("sequence", nothing)[at],
        )  # fmt: skip


def _times(values: Sequence[Any], meaning: str, found: Mapping[str, str], columns: Columns, where: str) -> list[float]:
    column = found[meaning]
    try:
        whole = all(isinstance(value, int) or str(value).lstrip("-").isdecimal() for value in values)
        numbers = [int(value) if whole else float(value) for value in values]
    except (TypeError, ValueError) as broken:
        raise ConfigError(f"columns: {where}: column {column!r} holds something that is no time: {broken}") from broken
    if any(number != number or abs(number) == float("inf") for number in numbers):
        raise ConfigError(f"columns: {where}: column {column!r} holds something that is no time")
    scale = columns.scale(meaning, column, numbers, whole)
    return [number * scale for number in numbers]


def _whole(values: Sequence[Any], column: str, where: str) -> list[int | None]:
    try:
        return [None if value is None or value == "" else int(float(value)) for value in values]
    except (TypeError, ValueError, OverflowError) as broken:
        raise ConfigError(
            f"columns: {where}: column {column!r} holds something that is no number: {broken}"
        ) from broken
