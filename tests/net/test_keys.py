from pathlib import Path

import pytest

from tightwire.errors import ConfigError
from tightwire.net import sockets
from tightwire.net.keys import Keys, load_authorized, public_key


def test_a_pair_is_written_for_its_owner_only_and_read_back(tmp_path: Path) -> None:
    folder, keys = tmp_path / "keys", Keys.generate()
    keys.save(folder)
    assert (folder / "secret.key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert Keys.load(folder) == keys
    assert keys.secret.decode() not in repr(keys)
    other = Keys.generate()
    other.save(tmp_path / "other")
    for named in (str(tmp_path / "other"), str(tmp_path / "other" / "public.key"), other.public.decode()):
        assert public_key(named) == other.public
        assert Keys.load(folder, named).server == other.public
    with pytest.raises(ConfigError, match="exists"):
        other.save(folder)


def test_what_is_wrong_with_keys_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tightwire kv keys"):
        Keys.load(tmp_path)
    Keys.generate().save(tmp_path)
    (tmp_path / "secret.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Keys.load(tmp_path)
    (tmp_path / "secret.key").chmod(0o600)
    (tmp_path / "public.key").write_bytes(Keys.generate().public)
    with pytest.raises(ConfigError, match="does not belong"):
        Keys.load(tmp_path)
    (tmp_path / "public.key").write_text("short")
    with pytest.raises(ConfigError, match="40 characters"):
        Keys.load(tmp_path)


def test_the_list_of_authorized_keys(tmp_path: Path) -> None:
    pairs = [Keys.generate() for _ in range(200)]  # among so many some begin with #
    path = tmp_path / "authorized"
    lines = ["# prefill hosts", "", *(f"  {pair.public.decode()}  host-{n}" for n, pair in enumerate(pairs))]
    path.write_text("\n".join(lines))
    assert load_authorized(path) == {pair.public for pair in pairs}
    path.write_text("nonsense")
    with pytest.raises(ConfigError, match="not a key"):
        load_authorized(path)
    with pytest.raises(ConfigError, match="one public key a line"):
        load_authorized(tmp_path / "missing")


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("tcp://127.0.0.1:7777", True), ("tcp://localhost:*", True), ("tcp://[::1]:7", True), ("ipc:///tmp/x", True),
        ("inproc://x", True), ("tcp://lo:1", True), ("tcp://*:7777", False), ("tcp://0.0.0.0:*", False),
        ("tcp://10.0.0.1:7", False), ("tcp://eth0:7", False), ("tcp://[::]:7", False), ("nonsense", False),
    ],
)  # fmt: skip
def test_which_addresses_stay_on_this_machine(endpoint: str, local: bool) -> None:
    assert sockets.is_local(endpoint) is local


def test_the_command_writes_a_pair_and_prints_the_public_key(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from tightwire.cli.kv import app

    result = CliRunner().invoke(app, ["keys", str(tmp_path / "new")])
    assert result.exit_code == 0
    assert Keys.load(tmp_path / "new").public.decode() in result.stdout
