"""The text that the reference model reads: fetched from Debian's archive, cleaned to plain text.

| package | what | licence |
|---|---|---|
| `bible-kjv-text` (read with `bible-kjv`) | King James Version, 1611 | public domain |
| `python3.11-doc` | documentation of Python 3.11 | PSF-2.0 |
| `postgresql-doc-15` | documentation of PostgreSQL 15 | PostgreSQL |

`apt-get download` and `dpkg -x` need no root. The books of `HELD_OUT_BOOKS` are never trained on:
they are shipped as `heldout.txt`, so that evaluation works without the corpus.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from tightwire.errors import ConfigError

PACKAGES = ("bible-kjv", "bible-kjv-text", "python3.11-doc", "postgresql-doc-15")
HELD_OUT_BOOKS = ("Ruth", "Esther", "Jonah")
_VERSE = re.compile(r"^ +\d+ ", re.MULTILINE)
_CHAPTER = re.compile(r"^((?:[123] )?[A-Z][A-Za-z ]*?) (\d+)$", re.MULTILINE)
_SKIPPED_TAGS = frozenset({"script", "style", "head"})
_BLOCK_TAGS = frozenset({"p", "div", "pre", "li", "dt", "dd", "h1", "h2", "h3", "h4", "tr", "table"})


@dataclass(frozen=True)
class Corpus:
    """`train`: documents of one source each, in a fixed order; `heldout`: text never trained on."""

    train: tuple[str, ...]
    heldout: str


def fetch(cache: Path) -> Corpus:
    """Download (once) and clean the corpus, about 20 MB of text, with `cache` as working folder.

    Raises ConfigError where a package cannot be had (no apt, another Debian release, no network).
    """
    for package in PACKAGES:
        _unpack(package, cache)
    bible = cache / "bible-kjv"
    train, heldout = split_books(_kjv(bible / "usr/bin/bible", cache / "bible-kjv-text/usr/lib"))
    python = sorted((cache / "python3.11-doc").glob("usr/share/doc/python3.11/html/_sources/**/*.rst.txt"))
    postgres = sorted((cache / "postgresql-doc-15").glob("usr/share/doc/postgresql-doc-15/html/*.html"))
    return Corpus(
        train=(
            train,
            "\n\n".join(clean_rst(page.read_text("utf-8")) for page in python),
            "\n\n".join(clean_html(page.read_text("utf-8")) for page in postgres),
        ),
        heldout=heldout,
    )


def _unpack(package: str, cache: Path) -> None:
    target = cache / package
    if target.exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", package], cwd=cache, check=True, capture_output=True)
        (archive,) = cache.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", archive.name, package], cwd=cache, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise ConfigError(
            f"cannot fetch the Debian package {package!r} into {cache}: {error}; the corpus is taken on "
            "Debian 12 after `apt-get update`"
        ) from error


def _kjv(program: Path, data: Path) -> str:
    verses = ["genesis1:1-revelation22:21"]
    command = [str(program), "-l100000", "-d", "bible.data", "-p", str(data), *verses]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def split_books(kjv: str) -> tuple[str, str]:
    """(training text, held-out text) of the King James text: whole books go one way or the other."""
    parts = _CHAPTER.split(kjv)[1:]
    train: list[str] = []
    heldout: list[str] = []
    for book, chapter, verses in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        prose = " ".join(_VERSE.sub("", verses).split())
        (heldout if book in HELD_OUT_BOOKS else train).append(f"{book} {chapter}\n\n{prose}")
    return "\n\n".join(train), "\n\n".join(heldout)


def clean_rst(page: str) -> str:
    """reStructuredText as plain text: roles and labels go, words and code stay."""
    page = re.sub(r":[\w:+-]+:`[!~]?([^`<]*?)(?:\s*<[^`>]*>)?`", r"\1", page)
    page = re.sub(r"^\.\. (?:_|index|versionadded|versionchanged).*\n", "", page, flags=re.MULTILINE)
    page = re.sub(r"^([=*\-~^\"'#])\1{3,}\n", "", page, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", page.replace("``", "`")).strip()


def clean_html(page: str) -> str:
    """The visible text of an HTML page, one line per block, without the navigation above its first rule."""
    parser = _Text()
    parser.feed(page)
    text = "".join(parser.parts)
    lines = [line.rstrip() for line in text.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Text(HTMLParser):
    """Collects text; whitespace is kept only inside `pre`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._skipping = 0
        self._pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipping += tag in _SKIPPED_TAGS
        self._pre += tag == "pre"
        if tag == "hr" and len(self.parts) < 60:
            self.parts.clear()
        if tag in _BLOCK_TAGS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._skipping -= tag in _SKIPPED_TAGS
        self._pre -= tag == "pre"
        if tag in _BLOCK_TAGS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self.parts.append(data if self._pre else re.sub(r"\s+", " ", data))
