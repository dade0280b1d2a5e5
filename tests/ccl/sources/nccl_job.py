"""A real NCCL job of 4 ranks on one GPU with a known fault: python nccl_job.py OUT FAULT GUILTY AT

Each rank says that it is on a host of its own (NCCL_HOSTID), so that NCCL takes ranks that share a GPU and joins them by
sockets. Pairs, rows and all reduce in turn; in step AT the rank GUILTY does what FAULT says. 3 s later each rank that lives
writes its Flight Recorder into OUT/pickle and OUT/json. With `live` they are also asked through pipes in OUT/live.

The sets in nccl_dumps/ are its own, without folders in the stacks: torch 2.11, NCCL 2.28.9, one H200, 2026-11-27.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

WORLD = 4
AFTER_S, LIVE_S = 3.0, 40.0
FAULTS = ("stopped", "within", "died", "operation", "shape", "device", "order", "live")
VARIABLES = {
    "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1", "NCCL_NET": "Socket", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_FR_BUFFER_SIZE": "2000", "TORCH_NCCL_ENABLE_TIMING": "1",
    "TORCH_NCCL_ENABLE_MONITORING": "1", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
}  # fmt: skip


class Rank:
    def __init__(self, out: Path, fault: str, guilty: int, at: int, rank: int) -> None:
        import torch
        import torch.distributed as dist

        self.torch, self.dist = torch, dist
        self.out, self.fault, self.guilty, self.at, self.rank = out, fault, guilty, at, rank
        torch.cuda.set_device(0)
        dist.init_process_group("nccl", init_method=f"file://{out}/store", rank=rank, world_size=WORLD)
        pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
        rows = [dist.new_group([0, 2]), dist.new_group([1, 3])]
        self.pair, self.row = pairs[rank // 2], rows[rank % 2]

    def run(self) -> None:
        threading.Thread(target=self.dump, daemon=True).start()
        for step in range(self.at + 3):
            self.step(self.rank == self.guilty and step == self.at)
            self.torch.cuda.synchronize()
        time.sleep(LIVE_S)

    def tensor(self, count: int) -> "torch.Tensor":  # type: ignore[name-defined]  # noqa: F821
        return self.torch.ones(count, device="cuda")

    def step(self, bad: bool) -> None:
        dist = self.dist
        if bad:
            self.torch.cuda.synchronize()
            (self.out / "at").touch()
        if bad and self.fault == "died":
            os.kill(os.getpid(), signal.SIGKILL)
        if bad and self.fault in ("stopped", "live"):
            time.sleep(LIVE_S)
        if bad and self.fault == "device":
            self.torch.cuda._sleep(int(LIVE_S * 2e9))
        if bad and self.fault == "order":
            dist.all_reduce(self.tensor(1 << 20))
            self.torch.cuda.synchronize()
        dist.all_reduce(self.tensor(1 << 20), group=self.pair)
        if bad and self.fault == "within":
            time.sleep(LIVE_S)
        dist.all_reduce(self.tensor(1 << 20), group=self.row)
        if bad and self.fault == "operation":
            dist.all_gather_into_tensor(self.tensor(1 << 22), self.tensor(1 << 20))
        else:
            dist.all_reduce(self.tensor(1 << (22 if bad and self.fault == "shape" else 20)))

    def dump(self) -> None:
        from torch._C._distributed_c10d import _dump_nccl_trace, _dump_nccl_trace_json

        while not (self.out / "at").exists():
            time.sleep(0.05)
        time.sleep(AFTER_S)
        pickled, text = _dump_nccl_trace(), _dump_nccl_trace_json()
        (self.out / "pickle" / f"_dump_{self.rank}").write_bytes(pickled)
        (self.out / "json" / f"rank_{self.rank}.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        time.sleep(LIVE_S if self.fault == "live" else AFTER_S)
        os._exit(0)


def main(out: Path, fault: str, guilty: int, at: int) -> None:
    for name in ("pickle", "json", "live"):
        (out / name).mkdir(parents=True)
    variables = dict(VARIABLES)
    if fault == "live":
        dumps = str(out / "live" / "rank_")
        variables |= {"TORCH_NCCL_DUMP_ON_TIMEOUT": "1"}  # only then torch looks at its pipe every second
        variables |= {"TORCH_NCCL_DEBUG_INFO_PIPE_FILE": dumps, "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": dumps, "TORCH_FR_DUMP_TEMP_FILE": dumps}
    command = [sys.executable, __file__, str(out), fault, str(guilty), str(at)]
    ranks = [
        subprocess.Popen([*command, str(rank)], env=os.environ | variables | {"NCCL_HOSTID": f"host{rank}", "RANK": str(rank), "WORLD_SIZE": str(WORLD)})
        for rank in range(WORLD)
    ]
    signal.signal(signal.SIGTERM, lambda *_: [rank.kill() for rank in ranks])
    for rank in ranks:
        rank.wait()


if __name__ == "__main__":
    if len(sys.argv) > 5:
        Rank(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])).run()
    else:
        main(Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
