"""An agent's answers about the connections of its own ranks."""

import queue

from tightwire.ccl.fleet.answering import Answering
from tightwire.ccl.fleet.messages import About, Answer, Ask
from tightwire.ccl.inet_diag import Socket
from tightwire.ccl.transport import End


def test_ends_are_told_of_its_own_ranks_sockets_and_of_what_moved_beside_them() -> None:
    moved = Socket(0, "nccl:1:0", "nccl:1:1", 0, False, 0, 64)
    answers: queue.Queue[Answer] = queue.Queue()
    answering = Answering(
        About("job", "host", 1), lambda: {7}, lambda pids: [End(rank, "", moved._replace(inode=pid)) for rank, pid in pids.items()]
    )  # fmt: skip
    answering.deliver = answers.put
    answering.take(Ask(3, "host", "ends", pids={0: 7, 1: 8}))  # 8 is none of its
    assert answers.get(timeout=10.0).ends == [End(0, "", moved._replace(inode=7))]
