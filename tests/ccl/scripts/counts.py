"""How often each operation is in a rank's ring, by kind of event."""

from collections import Counter
from pathlib import Path

import tightwire.ccl
from tightwire.ccl.probe import native
from tightwire.ccl.probe.ring import read_records
from tightwire.core.events import Kind, operation


def attached(folder: str, kernel: str) -> bool:
    """The probe is on, with the kernel that is "native" or in "python"."""
    if kernel == "python":
        native.module = lambda: None
    return tightwire.ccl.attach(folder)


def counted(folder: str, rank: int) -> dict[str, dict[str, int]]:
    records, lost = read_records(Path(folder) / f"rank-{rank}.ring")
    assert lost == 0
    kinds = (Kind.ENTERED, Kind.DONE, Kind.FAILED)
    return {k.name: Counter(operation(int(r["op"])) for r in records if r["kind"] == k) for k in kinds}
