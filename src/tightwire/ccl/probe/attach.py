"""Switching the probe on in a rank. See `tightwire.ccl.attach`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

from tightwire.ccl.probe import dispatch
from tightwire.ccl.probe.rank import Rank
from tightwire.ccl.probe.works import Works

DEFAULT_FOLDER = "/dev/shm/tightwire"
_recorder: dispatch.Recorder | None = None


def attach(folder: str | None = None) -> bool:
    """True when the probe is on, now or since an earlier call."""
    global _recorder
    if _recorder is not None:
        return True
    try:
        works: Works | None = None
        rank = Rank(
            Path(folder or os.environ.get("TIGHTWIRE_CCL") or DEFAULT_FOLDER), lambda: works.sweep() if works else None
        )
        works = Works(rank.writer)
        recorder = dispatch.Recorder(rank, works, _say)
        dispatch.install(recorder)
        works.watch()
        _follow_groups(rank, works, recorder)
        os.register_at_fork(after_in_child=lambda: _be_no_rank(recorder, works))
    except Exception as error:
        _say(error)
        return False
    _recorder = recorder
    return True


def _be_no_rank(recorder: dispatch.Recorder, works: Works) -> None:
    """In a forked child, a data loader for example: it must not speak for its parent."""
    recorder.active = False
    works.forget()


def _follow_groups(rank: Rank, works: Works, recorder: dispatch.Recorder) -> None:
    """Note when this process gets into its groups and when it leaves them in order."""
    build, end = distributed_c10d._new_process_group_helper, distributed_c10d.destroy_process_group

    def built(*args: Any, **kwargs: Any) -> Any:
        rank.joined()
        result = build(*args, **kwargs)
        what = dispatch.unseen(result[0] if isinstance(result, tuple) else result)
        if what is not None and recorder.active:
            rank.note_unseen(what)
        return result

    def destroyed(group: Any = None) -> None:
        whole = group is None or group is dist.group.WORLD
        works.sweep()  # while they can still be asked
        recorder.forget(None if whole else group)
        end(group)
        if whole:
            rank.left()

    distributed_c10d._new_process_group_helper = built
    distributed_c10d.destroy_process_group = dist.destroy_process_group = destroyed


def _say(error: Exception) -> None:
    print(f"tightwire: the probe stopped ({error!r}); the job runs on unobserved", file=sys.stderr, flush=True)
