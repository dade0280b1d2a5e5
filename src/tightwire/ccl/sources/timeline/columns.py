"""Which column of a table means what, and in which unit its times are.

| meaning | names that are found without being told |
|---|---|
| rank | rank, global_rank |
| op | op, operation, name, collective |
| start | start, begin, ts, start_time, begin_time |
| end, or duration | end, finish, stop, end_time; duration, dur |
| group (may be absent: all ranks) | group, group_name, pg, pg_name, process_group |
| step, sequence, size (may be absent) | step, iteration, iter; sequence, seq, seq_id; size, bytes, size_bytes |

A time's unit is the end of its column's name, `_ns`, `_us`, `_ms` or `_s`, or said as in `start=begin:us`; without
either it is seconds, or, of whole numbers, what a time since 1970 of that size must be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from tightwire.errors import ConfigError

UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
NAMES = {
    "rank": ("rank", "global_rank"),
    "op": ("op", "operation", "name", "collective"),
    "start": ("start", "begin", "ts", "start_time", "begin_time"),
    "end": ("end", "finish", "stop", "end_time"),
    "duration": ("duration", "dur"),
    "group": ("group", "group_name", "pg", "pg_name", "process_group"),
    "step": ("step", "iteration", "iter"),
    "sequence": ("sequence", "seq", "seq_id"),
    "size": ("size", "bytes", "size_bytes"),
}
TIMES = ("start", "end", "duration")
_SINCE_1970 = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"))  # of any date after 1973


@dataclass(frozen=True)
class Columns:
    """`given`: meaning → column's name; `units`: meaning → unit, where it was said."""

    given: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def parse(text: str) -> Columns:
        """From `start=begin_us,end=finish:ms`. Raises ConfigError."""
        given, units = {}, {}
        for part in filter(None, (each.strip() for each in text.split(","))):
            meaning, _, name = (each.strip() for each in part.partition("="))
            if meaning not in NAMES or not name:
                raise ConfigError(
                    f"columns: {part!r} is no mapping; write MEANING=COLUMN with a meaning of {', '.join(NAMES)}"
                )
            name, _, unit = name.partition(":")
            if unit and (unit not in UNITS or meaning not in TIMES):
                raise ConfigError(f"columns: {part!r}: a unit is one of {', '.join(UNITS)}, and only of a time")
            given[meaning] = name
            if unit:
                units[meaning] = unit
        return Columns(given, units)

    def find(self, there: Collection[str], where: str) -> dict[str, str]:
        """Meaning → the column of `there` that has it. Raises ConfigError when a needed one is not there."""
        found = {}
        for meaning, names in NAMES.items():
            wanted = self.given.get(meaning)
            if wanted is not None and wanted not in there:
                raise ConfigError(f"columns: {where} has no column {wanted!r}; it has {', '.join(sorted(there))}")
            endings = ("", *(f"_{unit}" for unit in UNITS)) if meaning in TIMES else ("",)
            known = (name + ending for name in names for ending in endings)
            chosen = wanted or next((name for name in known if name in there), None)
            if chosen is not None:
                found[meaning] = chosen
        lacking = [m for m in ("op", "start") if m not in found] + (
            [] if found.keys() & {"end", "duration"} else ["end"]
        )
        if lacking:
            raise ConfigError(
                f"columns: {where} has no column for {', '.join(lacking)}; it has {', '.join(sorted(there))}; say which it is "
                f"with --columns {lacking[0]}=COLUMN"
            )
        return found

    def scale(self, meaning: str, column: str, values: Iterable[float], whole: bool) -> float:
        """Seconds in one unit of that column; `whole` numbers may be a time since 1970."""
        unit = self.units.get(meaning) or next((u for u in UNITS if column.endswith(f"_{u}")), None)
        if unit is None and whole and meaning != "duration":
            most = max(values, default=0)
            unit = next((name for least, name in _SINCE_1970 if most >= least), "s")
        return UNITS[unit or "s"]
