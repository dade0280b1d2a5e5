"""A real 4-rank gloo job with a known fault: python gloo_job.py OUT FAULT GUILTY AT

Ranks are forks. Pairs, rows and all reduce in turn; in step AT the rank GUILTY does what FAULT says, and 1.5 s later each
rank that lives writes its Flight Recorder into OUT/pickle and OUT/json. `slow` instead writes OUT/trace, a torch.profiler
trace of each rank, GUILTY computing longer from step AT on. `live` ranks answer at OUT/worker_RANK.sock for some time.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import _dump_fr_trace, _dump_fr_trace_json, _WorkerServer

WORLD = 4
AFTER_S, LIVE_S = 1.5, 60.0
STEPS, STEP_S, LONGER_S = 14, 0.04, 0.08


class Rank:
    def __init__(self, out: Path, fault: str, guilty: int, at: int, rank: int) -> None:
        self.out, self.fault, self.guilty, self.at, self.rank = out, fault, guilty, at, rank
        dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=WORLD)
        pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
        rows = [dist.new_group([0, 2]), dist.new_group([1, 3])]
        self.pair, self.row = pairs[rank // 2], rows[rank % 2]

    def run(self) -> None:
        if self.fault == "slow":
            self.record()
            return
        live = _WorkerServer(f"{self.out}/worker_{self.rank}.sock") if self.fault == "live" else None
        threading.Thread(target=self.dump, args=(live is not None,), daemon=True).start()
        try:
            for step in range(self.at + 3):
                self.step(self.rank == self.guilty and step == self.at)
        finally:
            time.sleep(LIVE_S)  # what gloo says of a rank that died is no reason to go, too

    def step(self, bad: bool) -> None:
        if bad:
            (self.out / "at").touch()
        if bad and self.fault == "died":
            os.kill(os.getpid(), signal.SIGKILL)
        if bad and self.fault in ("stopped", "live"):
            time.sleep(LIVE_S)
        dist.all_reduce(torch.ones(64), group=self.pair)
        if bad and self.fault == "within":
            time.sleep(LIVE_S)
        dist.all_reduce(torch.ones(32), group=self.row)
        if bad and self.fault == "operation":
            dist.barrier()
        elif bad and self.fault == "shape":
            dist.all_reduce(torch.ones(24))
        elif bad and self.fault == "dtype":
            dist.all_reduce(torch.ones(16, dtype=torch.float64))
        else:
            dist.all_reduce(torch.ones(16))

    def dump(self, live: bool) -> None:
        while not (self.out / "at").exists():
            time.sleep(0.05)
        time.sleep(LIVE_S if live else AFTER_S)
        pickled, text = _dump_fr_trace(), _dump_fr_trace_json()
        (self.out / "pickle" / f"_dump_{self.rank}").write_bytes(pickled)
        (self.out / "json" / f"rank_{self.rank}.json").write_bytes(text)
        time.sleep(AFTER_S)  # when a rank goes, the others' operations fail
        os._exit(0)

    def record(self) -> None:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for step in range(STEPS):
                time.sleep(STEP_S + (LONGER_S if self.rank == self.guilty and step >= self.at else 0.0))
                dist.all_reduce(torch.ones(64), group=self.pair)
                dist.all_reduce(torch.ones(16))
        profile.export_chrome_trace(f"{self.out}/trace/rank{self.rank}.json.gz")


def main(out: Path, fault: str, guilty: int, at: int) -> None:
    torch.set_num_threads(1)
    for name in ("pickle", "json", "trace"):
        (out / name).mkdir(parents=True)
    children = []
    for rank in range(WORLD):
        pid = os.fork()
        if pid == 0:
            Rank(out, fault, guilty, at, rank).run()
            os._exit(0)
        children.append(pid)
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGKILL) for pid in children])
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
