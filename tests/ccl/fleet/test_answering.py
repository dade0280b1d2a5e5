"""An agent's answers about its own ranks: their connections, their groups."""

import json
import queue
from pathlib import Path

import pytest

from tightwire.ccl.agent import Agent
from tightwire.ccl.fleet.answering import Answering
from tightwire.ccl.fleet.messages import About, Answer, Ask, unpack_findings
from tightwire.ccl.inet_diag import Socket
from tightwire.ccl.summary import GroupFacts
from tightwire.ccl.transport import End
from tightwire.core.clock import FakeClock


def test_ends_are_told_of_its_own_ranks_sockets_and_of_what_moved_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Socket(0, "nccl:1:0", "nccl:1:1", 0, False, 0, 64)
    answers: queue.Queue[Answer] = queue.Queue()
    agent = Agent(tmp_path, FakeClock())
    monkeypatch.setattr(Agent, "pids", {7})
    monkeypatch.setattr(
        agent, "transfers", lambda pids: [End(rank, "", moved._replace(inode=pid)) for rank, pid in pids.items()]
    )
    answering = Answering(About("job", "host", 1), agent)
    answering.deliver = answers.put
    answering.take(Ask(3, "host", "ends", pids={0: 7, 1: 8}))  # 8 is none of its
    assert unpack_findings(answers.get(timeout=10.0).body).ends == [End(0, "", moved._replace(inode=7))]


def test_groups_are_described_as_far_as_they_are_known(tmp_path: Path) -> None:
    (tmp_path / "rank-0.groups").write_text(json.dumps({"group": 5, "name": "data", "ranks": [0, 4]}) + "\n")
    agent, answers = Agent(tmp_path, FakeClock()), queue.Queue[Answer]()
    agent.look()
    answering = Answering(About("job", "host", 1), agent)
    answering.deliver = answers.put
    answering.take(Ask(4, "host", "groups", groups=[5, 6]))
    assert unpack_findings(answers.get(timeout=10.0).body).groups == [GroupFacts(5, "data", [0, 4])]
