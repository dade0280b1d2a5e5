"""What a long benchmark has done so far, so that one that was interrupted can go on."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec


class Noted(Protocol):
    """A line of the file: what was run, under the seed of the whole, and what came of it; a struct of msgspec."""

    @property
    def seed(self) -> int: ...


N = TypeVar("N", bound=Noted)


class Notes(Generic[N]):
    """All parts so far of one seed, each of the type `kind`, in a file `FILE.runs` beside the results `file`, which is
    appended to; without `resume` it begins anew."""

    def __init__(self, kind: type[N], file: Path | None, seed: int, resume: bool) -> None:
        self._path = None if file is None else file.with_suffix(file.suffix + ".runs")
        lines = self._path.read_text().splitlines() if self._path is not None and self._path.exists() and resume else []
        self.noted = [each for line in lines if (each := msgspec.json.decode(line, type=kind)).seed == seed]
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("".join(f"{line}\n" for line in lines))

    def has(self, **part: object) -> bool:
        """Whether that part is over: `case=…` of a case, and so on."""
        return any(all(getattr(each, name) == value for name, value in part.items()) for each in self.noted)

    def add(self, noted: N) -> None:
        self.noted.append(noted)
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(noted) + b"\n")
