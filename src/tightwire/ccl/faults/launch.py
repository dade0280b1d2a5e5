"""Starts the ranks of a job as forks of one process that has imported torch already: seconds faster than torchrun.

`python -m tightwire.ccl.faults.launch --ranks 4 train.py …` (or `-m package.module …`); the probe is switched on in each
rank when $TIGHTWIRE_CCL is set. Like torchrun it ends the other ranks when one fails, and returns that one's status.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from tightwire.ccl.faults import quota
from tightwire.net.ports import free_port

REACTION_S = 0.1  # torchrun looks for dead ranks as often


def launch(ranks: int, enter: Sequence[Callable[[], None]], address: str, body: Callable[[], object]) -> int:
    """Fork `ranks` processes that each call their `enter` (if any), then `body`; the status of the first that failed."""
    port = free_port()
    children = {}
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks),
                MASTER_ADDR=address, MASTER_PORT=str(port),
            )  # fmt: skip
            _be_rank(enter[rank] if enter else None, body)
        children[pid] = rank
    signal.signal(signal.SIGTERM, lambda *_: _end(list(children)))
    started = list(children)
    status = _wait_for(children)
    for pid in started:
        quota.clean_up(pid)
    return status


def _be_rank(enter: Callable[[], None] | None, body: Callable[[], object]) -> NoReturn:
    """Leaves as a Python process of its own would: exception hook, exit handlers, status."""
    status: object = 1
    try:
        if enter is not None:
            enter()
        if os.environ.get("TIGHTWIRE_CCL"):
            from tightwire.ccl import attach

            attach()
        body()
        status = 0
    except SystemExit as ended:
        status = ended.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    try:
        import atexit

        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    os._exit(status if isinstance(status, int) else (0 if status is None else 1))


def _wait_for(children: dict[int, int]) -> int:
    first = 0
    while children:
        try:
            pid, raw = os.wait()
        except InterruptedError:
            continue
        if children.pop(pid, None) is None:
            continue
        status = os.waitstatus_to_exitcode(raw)
        if status != 0 and first == 0:
            first = status if status > 0 else 128 - status
            signal.sigtimedwait([], REACTION_S)
            _end(list(children))
    return first


def _end(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def import_ahead() -> None:
    """What training jobs import sooner or later, once instead of in each rank."""
    for module in ("torch", "torch._dynamo", "torch.distributed.fsdp", "tightwire.ccl.probe.attach"):
        importlib.import_module(module)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--hosts", action="store_true", help="a network namespace for each rank (needs root)")
    parser.add_argument("-m", dest="is_module", action="store_true", help="the job is a module")
    parser.add_argument("job")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    import_ahead()
    from tightwire.ccl.faults.cluster import Cluster, address

    def body() -> None:
        sys.argv = [arguments.job, *arguments.arguments]
        if arguments.is_module:
            runpy.run_module(arguments.job, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(arguments.job)))
            runpy.run_path(arguments.job, run_name="__main__")

    if not arguments.hosts:
        sys.exit(launch(arguments.ranks, (), "127.0.0.1", body))
    with Cluster(arguments.ranks) as cluster:
        enter = [functools.partial(cluster.enter, rank) for rank in range(arguments.ranks)]
        status = launch(arguments.ranks, enter, address(0), body)
    sys.exit(status)


if __name__ == "__main__":
    main()
