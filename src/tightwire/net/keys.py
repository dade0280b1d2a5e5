"""CURVE keys (https://rfc.zeromq.org/spec/26/): who may send to a receiver, and who the receiver is.

A key is 40 characters of Z85. A pair is a folder with `public.key` and `secret.key`; only its owner may read the latter.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from tightwire.errors import ConfigError

_CHARACTERS = 40
PUBLIC, SECRET = "public.key", "secret.key"


@dataclass(frozen=True)
class Keys:
    """A pair of one's own; a sender also needs the `server` key, the receiver's public one."""

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes | None = None

    @classmethod
    def generate(cls) -> Keys:
        return cls(*zmq.curve_keypair())

    def save(self, folder: Path) -> None:
        """Write the pair; the folder's mode is 700 and the files' 600. Raises ConfigError where there is one already."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, key in ((SECRET, self.secret), (PUBLIC, self.public)):
            try:
                file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError as error:
                raise ConfigError(f"{folder / name} exists; give another folder or remove it") from error
            with os.fdopen(file, "wb") as out:
                out.write(key + b"\n")

    @classmethod
    def load(cls, folder: Path, server: str | None = None) -> Keys:
        """The pair in `folder`; `server` as in `public_key`. Raises ConfigError that says what is wrong with which
        file."""
        path = folder / SECRET
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"{path} can be read by others; run chmod 600 {path}")
        pair = _read(folder / PUBLIC), _read(path)
        if zmq.curve_public(pair[1]) != pair[0]:
            raise ConfigError(f"{folder / PUBLIC} does not belong to {path}; write a new pair with tightwire kv keys")
        return cls(*pair, public_key(server) if server else None)


def public_key(text: str) -> bytes:
    """A public key from its 40 characters, its file, or the folder of a pair."""
    if len(text) == _CHARACTERS and not Path(text).exists():
        return _checked(text.encode("ascii", "replace"), "the key")
    path = Path(text)
    return _read(path / PUBLIC if path.is_dir() else path)


def load_authorized(path: Path) -> frozenset[bytes]:
    """The public keys that may send: one a line; what follows the key, and lines that start with "# ", are notes. Raises
    ConfigError."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"authorized keys {path}: {error.strerror}; write one public key a line") from error
    # A key may itself start with #.
    rows = [line.strip() for line in lines]
    return frozenset(
        _checked(row[:_CHARACTERS], f"{path}")
        for row in rows
        if row and not (row[:1] == b"#" and row[1:2] in (b"", b" "))
    )


def _read(path: Path) -> bytes:
    try:
        return _checked(path.read_bytes().strip(), f"{path}")
    except OSError as error:
        raise ConfigError(f"key {path}: {error.strerror}; write a pair with tightwire kv keys") from error


def _checked(key: bytes, what: str) -> bytes:
    try:
        whole = len(z85.decode(key)) == 32
    except (ValueError, KeyError, IndexError):
        whole = False
    if not whole:
        raise ConfigError(f"{what} is not a key: {len(key)} characters; a key is {_CHARACTERS} characters of Z85")
    return key
