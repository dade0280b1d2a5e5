"""The kernel's counters of real connections, by both ways; and real broken links, as root."""

import contextlib
import json
import os
import socket
import time
from pathlib import Path

import pytest

from tests.ccl.jobs import RANKS, run_job
from tightwire.ccl import inet_diag, transport


def refused() -> list:
    raise PermissionError


@pytest.mark.parametrize("way", ["inet_diag", "proc"])
def test_a_connection_is_seen_from_both_ends(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "proc":
        monkeypatch.setattr(transport.inet_diag, "Table", refused)
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
            while {(c.rank, c.peer) for c in found} != {(5, 6), (6, 5)} or any(c.socket.queued_bytes for c in found):
                assert time.monotonic() < deadline, found
                found = transport.connections({5: os.getpid(), 6: child})
            ends = {(c.rank, c.peer): c.socket for c in found}
            os.kill(child, 9)
            os.waitpid(child, 0)
    assert set(ends) == {(5, 6), (6, 5)}
    assert ends[5, 6].local == ends[6, 5].remote
    if way == "inet_diag":
        assert ends[5, 6].acked_bytes >= 3000
        assert ends[6, 5].received_bytes == 3000
        assert 0 < ends[5, 6].rtt_s < 1
        assert ends[5, 6].delivery_bytes_per_s > 0


def linked(server: socket.socket) -> tuple[socket.socket, socket.socket]:
    made = socket.create_connection(server.getsockname())
    return made, server.accept()[0]


def test_looked_at_again_the_kernel_is_asked_only_for_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = []
    every = inet_diag.Table.all
    monkeypatch.setattr(inet_diag.Table, "all", lambda table: walks.append(1) or every(table))
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.closing(transport.Transport()) as looked_at:

        def sent() -> list[int]:
            ends = (end.socket for end in looked_at.ends({0: os.getpid()}))
            return [each.acked_bytes for each in ends if each.remote.endswith(f":{server.getsockname()[1]}")]

        one, its_end = linked(server)
        first = sent()[0]
        one.sendall(b"x" * 1000)
        assert its_end.recv(1000, socket.MSG_WAITALL)
        assert (sent(), len(walks)) == ([first + 1000], 1)
        two, other_end = linked(server)
        assert (len(sent()), len(walks)) == (2, 2)
        spare = os.dup(one.fileno())
        for each in (one, its_end):
            each.close()
        os.close(spare)
        with open(os.devnull), open(os.devnull):  # the same file numbers, no sockets any more
            assert (len(sent()), len(walks)) == (1, 3)
        two.close()
        other_end.close()
    assert looked_at._namespaces == {}


def test_a_socket_that_is_gone_is_noticed_and_its_answer_not_taken_for_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.closing(inet_diag.Table()) as table:
        ends = linked(server)
        known = [each for each in table.all() if f":{server.getsockname()[1]}" in (each.local + each.remote)]
        assert table.again(known) is not None
        for each in ends:
            each.close()
        assert table.again(known) is None
        table._kernel.send(table._requests[known[0].inode])  # an answer that nobody reads
        assert not {each.inode for each in known} & {each.inode for each in table.all()}


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
