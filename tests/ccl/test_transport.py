"""The kernel's counters of real connections, by both ways; and real broken links, as root."""

import contextlib
import json
import os
import socket
import time
from pathlib import Path

import pytest

from tests.ccl.jobs import RANKS, run_job
from tightwire.ccl import transport


def refused() -> list:
    raise PermissionError


@pytest.mark.parametrize("way", ["inet_diag", "proc"])
def test_a_connection_is_seen_from_both_ends(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "proc":
        monkeypatch.setattr(transport.inet_diag, "established", refused)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        child = os.fork()
        if child == 0:  # the other rank: a process of its own with the other end
            other, _ = server.accept()
            other.recv(3000, socket.MSG_WAITALL)
            sender.close()
            time.sleep(60)
            os._exit(0)
        with sender:
            sender.sendall(b"x" * 3000)
            deadline, found = time.monotonic() + 20, []
            while {(c.rank, c.peer) for c in found} != {(5, 6), (6, 5)} or any(c.queued_bytes for c in found):
                assert time.monotonic() < deadline, found
                found = transport.connections({5: os.getpid(), 6: child})
            ends = {(c.rank, c.peer): c for c in found}
            os.kill(child, 9)
            os.waitpid(child, 0)
    assert set(ends) == {(5, 6), (6, 5)}
    assert ends[5, 6].local == ends[6, 5].remote
    if way == "inet_diag":
        assert ends[5, 6].acked_bytes >= 3000
        assert ends[6, 5].received_bytes == 3000
        assert 0 < ends[5, 6].rtt_s < 1
        assert ends[5, 6].delivery_bytes_per_s > 0


def test_ranks_that_are_gone_have_no_connections() -> None:
    assert transport.connections({0: 2**22 + 9}) == []


def test_what_answers_is_reached_and_what_does_not_is_not() -> None:
    with contextlib.ExitStack() as opened:
        servers = [opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0)) for _ in range(3)]
        there, refused, silent = (f"127.0.0.1:{each.getsockname()[1]}" for each in servers)
        servers[1].close()
        for _ in range(3):  # its queue is full: the kernel drops what comes
            made = opened.enter_context(socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            made.connect_ex(servers[2].getsockname())
        assert transport.reached(os.getpid(), [there, refused, silent], timeout_s=0.2) == {there, refused}
    assert transport.reached(2**22 + 9, [there]) is None


@pytest.mark.job
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.parametrize(("fault", "ranks", "links"), [("drop", [], ["1-2"]), ("dead", [1], ["0-1", "1-2"])])
def test_where_nothing_gets_through_is_named(fault: str, ranks: list, links: list, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    status, verdict, printed = run_job(
        tmp_path / "out", "--hosts", "-m", "tightwire.ccl.faults.sample_job", "--steps", "100000", "--fault", fault,
        "--rank", "1", "--step", "20", "--truth", str(truth),
    )  # fmt: skip
    assert status == 3, printed
    assert (verdict["class"], verdict["guilty_ranks"], verdict["confidence"]) == ("H3", ranks, "high"), verdict
    found = set(verdict["guilty_links"])
    assert found >= set(links), verdict
    if ranks:  # a dead device takes all its links along; how many of them carried data just then is chance
        assert all("1" in link.split("-") for link in found), verdict
    else:
        assert found == set(links), verdict
    assert verdict["waiting_ranks"] == list(range(RANKS))
    assert verdict["at_s"] - json.loads(truth.read_text())["at_s"] < 15
