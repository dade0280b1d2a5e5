"""`tightwire ccl watch` through the pipes that torch opens for NCCL: real FIFOs, with the dumps of a real NCCL job."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tightwire import cli
from tightwire.ccl.sources.flight_recorder.live import Live

DUMPS = Path(__file__).parent / "nccl_dumps" / "stopped"
RANKS = 4


class Ranks:
    """Listens at a pipe for each rank, as torch does; `answers`: writes the dump beside it."""

    def __init__(self, folder: Path, answers: bool) -> None:
        self.folder, self.answers, self.asked, self._over = folder, answers, 0, False
        self._pipes = []
        for rank in range(RANKS):
            os.mkfifo(folder / f"rank_{rank}.pipe")
            self._pipes.append(os.open(folder / f"rank_{rank}.pipe", os.O_RDONLY | os.O_NONBLOCK))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._over:
            for rank, pipe in enumerate(self._pipes):
                try:
                    heard = os.read(pipe, 16)
                except BlockingIOError:
                    continue
                self.asked += bool(heard)
                if heard and self.answers and (DUMPS / f"_dump_{rank}").exists():
                    shutil.copy(DUMPS / f"_dump_{rank}", self.folder / f"rank_{rank}")
            time.sleep(0.01)

    def close(self) -> None:
        self._over = True
        self._thread.join()
        for pipe in self._pipes:
            os.close(pipe)


@pytest.mark.parametrize("answers", [True, False])
def test_watch_asks_pipes_and_says_where_none_answers(tmp_path: Path, answers: bool) -> None:
    ranks = Ranks(tmp_path, answers)
    try:
        command = ["ccl", "watch", str(tmp_path), "--every", "0.3", "--looks", "4"]
        done = CliRunner().invoke(cli.app, command, env={"COLUMNS": "200"})
    finally:
        ranks.close()
    assert ranks.asked >= 2 * RANKS
    if answers:
        assert done.exit_code == 3, done.output
        assert "H1" in done.output
        assert "rank 2" in done.output
        assert "no dump came" not in done.output
    else:
        assert done.exit_code == 0, done.output
        assert done.output.count(f"no dump came from {RANKS} pipes that were asked") == 1
        assert "TORCH_NCCL_DUMP_ON_TIMEOUT=1" in done.output


def test_pipes_nobody_listens_at_are_not_asked(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rank_0.pipe")
    live = Live([str(tmp_path)])
    assert live.look() == live.look() == []
    assert live.silent == 0
