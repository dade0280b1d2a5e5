"""Switching the probe on in a rank. See `tightwire.ccl.attach`."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

from tightwire.ccl.probe import dispatch, native
from tightwire.ccl.probe.rank import Rank

DRILL = "TIGHTWIRE_CCL_DRILL"  # a fault to play, see `faults.drill`
DEFAULT_FOLDER = "/dev/shm/tightwire"
Observer = native.Observer | dispatch.Observer
_observer: Observer | None = None


def attach(folder: str | None = None) -> bool:
    """True when the probe is on, now or since an earlier call."""
    global _observer
    if _observer is not None:
        return True
    try:
        rank = Rank(Path(folder or os.environ.get("TIGHTWIRE_CCL") or DEFAULT_FOLDER))
        observer = _make(rank)
        rank.before_leaving = observer.sweep
        observer.watch()
        _follow_groups(rank, observer)
        os.register_at_fork(after_in_child=observer.disable)
        atexit.register(observer.stop)
        if DRILL in os.environ:
            from tightwire.ccl.faults import drill

            drill.arm(os.environ[DRILL])
    except Exception as error:
        _say(error)
        return False
    _observer = observer
    return True


def _make(rank: Rank) -> Observer:
    built = native.module() if hasattr(rank.writer, "address") else None
    return dispatch.Observer(rank, _say) if built is None else native.Observer(built, rank)


def _follow_groups(rank: Rank, observer: Observer) -> None:
    """Note when this process gets into its groups and when it leaves them in order."""
    build, end = distributed_c10d._new_process_group_helper, distributed_c10d.destroy_process_group
    join = distributed_c10d.init_process_group

    def joining(*args: Any, **kwargs: Any) -> None:
        rank.joining(lambda: join(*args, **kwargs))

    def built(*args: Any, **kwargs: Any) -> Any:
        rank.joined()
        result = build(*args, **kwargs)
        what = dispatch.unseen(result[0] if isinstance(result, tuple) else result)
        if what is not None and observer.active:
            rank.note_unseen(what)
        return result

    def destroyed(group: Any = None) -> None:
        whole = group is None or group is dist.group.WORLD
        observer.sweep()  # while they can still be asked
        observer.forget(None if whole else group)
        end(group)
        if whole:
            rank.left()

    joining.__doc__ = join.__doc__
    distributed_c10d.init_process_group = dist.init_process_group = joining
    distributed_c10d._new_process_group_helper = built
    distributed_c10d.destroy_process_group = dist.destroy_process_group = destroyed


def _say(error: Exception) -> None:
    print(f"tightwire: the probe stopped ({error!r}); the job runs on unobserved", file=sys.stderr, flush=True)
