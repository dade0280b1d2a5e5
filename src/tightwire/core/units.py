"""Quantities as people write them: link rates in bits, sizes in bytes, times in seconds.

Bits are not bytes and GB is not GiB: a rate is parsed to bytes per second, `gbit` means 10^9 bits,
`GB` 10^9 bytes, `GiB` 2^30 bytes.
"""

import re

from tightwire.errors import ConfigError

_RATE_BYTES_PER_S = {
    "bit": 1 / 8, "kbit": 1e3 / 8, "mbit": 1e6 / 8, "gbit": 1e9 / 8,
    "b/s": 1.0, "kb/s": 1e3, "mb/s": 1e6, "gb/s": 1e9, "mib/s": 2.0**20, "gib/s": 2.0**30,
}  # fmt: skip
_SIZE_BYTES = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
_TIME_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _parse(text: str, table: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z/]+)\s*", text)
    unit = match.group(2).lower() if match else ""
    if match is None or unit not in table:
        raise ConfigError(f"{what} {text!r} is not understood; write it like {example} (units: {', '.join(table)})")
    return float(match.group(1)) * table[unit]


def parse_rate_bytes_per_s(text: str) -> float:
    """`"25gbit"` → 3.125e9 bytes per second. Raises ConfigError for anything else than number and unit."""
    rate = _parse(text, _RATE_BYTES_PER_S, "rate", "25gbit or 3MB/s")
    if rate <= 0:
        raise ConfigError(f"rate {text!r} must be above zero, like 25gbit")
    return rate


def parse_size_bytes(text: str) -> int:
    """`"64MiB"` → 67108864 bytes."""
    return int(_parse(text, _SIZE_BYTES, "size", "64MiB or 1GB"))


def parse_time_s(text: str) -> float:
    """`"500ms"` → 0.5 seconds."""
    return _parse(text, _TIME_S, "time", "500ms or 2s")


def format_rate(bytes_per_s: float) -> str:
    """A link rate in bits, as network people write it: `2.5 Gbit/s`."""
    bits = bytes_per_s * 8
    for scale, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bits >= scale:
            return f"{bits / scale:.3g} {unit}"
    return f"{bits:.3g} bit/s"


def format_size(count: float) -> str:
    """A size in decimal bytes: `1.50 MB`."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:.0f} B"


def format_time(seconds: float) -> str:
    """A duration with three significant figures: `12.3 ms`."""
    if abs(seconds) >= 1:
        return f"{seconds:.3g} s"
    if abs(seconds) >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} us"
