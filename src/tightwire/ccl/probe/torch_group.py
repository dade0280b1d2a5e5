"""Sees every collective of torch.distributed that passes through a ProcessGroup object.

`torch.distributed` builds each group as a `ProcessGroup`; while it does, we let it build `ObservedGroup`, a Python
subclass. Its methods note the call and hand it to the base class, so the backend (gloo, NCCL, …) stays what it was.
C++ callers (DDP's reducer) reach the overrides through pybind's trampolines.

pybind resolves a base-class call from an override by looking at the calling frame's function name; so every override
calls the base method directly and bears its name.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from tightwire.ccl.probe.process import start_ticks
from tightwire.ccl.probe.ring import Goodbye
from tightwire.core.events import OPERATION_CODES, group_fingerprint

CAPACITY = 8192
NO_PEER = 0xFFFFFFFF
_DTYPES = {torch.float32: 1, torch.bfloat16: 2, torch.float16: 3, torch.float64: 4, torch.int64: 5, torch.int32: 6}
_METHODS = tuple(name for name in OPERATION_CODES if hasattr(dist.ProcessGroup, name))
# gloo's send and recv complete only in wait(): asking would never see it
_END_UNSEEN = ("send", "recv", "recv_anysource")
SWEEP_EVERY_S = 0.05
_pending: deque[tuple[Any, int, int, int, int]] = deque()
_sweeping = threading.Lock()
_probe: _Probe | None = None


class _Probe:
    """This rank's ring and the groups in it."""

    def __init__(self, folder: Path) -> None:
        make = _ring_writer()

        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        folder.mkdir(parents=True, exist_ok=True)
        self._facts = folder / f"rank-{rank}.groups"
        self._facts.write_text("")
        self.writer = make(
            str(folder / f"rank-{rank}.ring"), CAPACITY, rank, world, os.getpid(), start_ticks(os.getpid()) or 0
        )
        self.writer.note_sigterm()
        self._pid, self._failed = os.getpid(), False
        atexit.register(self._goodbye)
        previous = sys.excepthook

        def on_error(kind: Any, value: Any, trace: Any) -> None:
            if os.getpid() == self._pid:  # not in a forked child
                self._failed = True
                _sweep()  # an operation that failed makes this rank a victim
                self.writer.goodbye(Goodbye.ERROR)
            previous(kind, value, trace)

        sys.excepthook = on_error

    def add_group(self, name: str, ranks: list[int]) -> tuple[int, int]:
        """(slot, fingerprint) of a new group; its members go into a file beside the ring."""
        fingerprint = group_fingerprint(name, ranks)
        with self._facts.open("a") as file:
            file.write(json.dumps({"group": fingerprint, "name": name, "ranks": ranks}) + "\n")
        return self.writer.add_group(fingerprint), fingerprint

    def _goodbye(self) -> None:
        if os.getpid() == self._pid and not self._failed:
            _sweep()
            self.writer.goodbye(Goodbye.IN_ORDER)


class ObservedGroup(dist.ProcessGroup):
    """A ProcessGroup that notes its calls. The overrides are made below, one for each name in `_METHODS`."""

    _tw: tuple[int, int] | None = None
    _tw_seq = 0

    def __init__(self, store: Any, rank: int, size: int) -> None:
        # the only constructor through which pybind lets Python override methods
        super().__init__(rank, size)  # type: ignore[call-arg]


def _note(group: ObservedGroup, name: str, args: tuple[Any, ...]) -> tuple[int, int, int] | None:
    """Record the entry; (slot, fingerprint, seq), or None when it cannot be recorded."""
    probe = _probe
    if probe is None:
        return None
    try:
        known = group._tw
        if known is None:
            known = group._tw = probe.add_group(_name_of(group), _ranks_of(group))
        slot, fingerprint = known
        group._tw_seq = seq = group._tw_seq + 1
        tensor = _first_tensor(args)
        if tensor is None:
            size, dtype, shape = 0, 0, 0
        else:
            size, dtype = tensor.numel() * tensor.element_size(), _DTYPES.get(tensor.dtype, 0)
            shape = zlib.crc32(repr(tuple(tensor.shape)).encode())
        probe.writer.entered(slot, fingerprint, seq, OPERATION_CODES[name], size, dtype, shape, NO_PEER)
    except Exception as error:
        _give_up(error)
        return None
    return slot, fingerprint, seq


def _watch(mark: tuple[int, int, int] | None, name: str, work: Any) -> None:
    """Remember `work` until it is seen to be completed."""
    if _probe is None or mark is None:
        return
    slot, fingerprint, seq = mark
    if work is None or name in _END_UNSEEN:
        _probe.writer.done(slot, fingerprint, seq, OPERATION_CODES[name], False)
    else:
        _pending.append((work, slot, fingerprint, seq, OPERATION_CODES[name]))


def _note_failure(mark: tuple[int, int, int] | None, name: str) -> None:
    if _probe is not None and mark is not None:
        _probe.writer.done(*mark, OPERATION_CODES[name], True)


def _sweep() -> None:
    """Record what was completed since the last sweep.

    Asked for, not called back: a callback would make the backend's own threads wait for the GIL, and a caller that
    waits for the backend while it holds the GIL would then wait for ever."""
    with _sweeping:  # whoever returns from here knows that nothing is half noted
        _sweep_pending()


def _sweep_pending() -> None:
    probe = _probe
    for _ in range(len(_pending)):
        entry = _pending.popleft()
        work, slot, fingerprint, seq, code = entry
        try:
            if not work.is_completed():
                _pending.append(entry)
                continue
            failed = not work.is_success()
        except Exception:
            failed = True
        if probe is not None:
            probe.writer.done(slot, fingerprint, seq, code, failed)


def _keep_sweeping() -> None:
    while True:
        time.sleep(SWEEP_EVERY_S)
        if _pending:
            _sweep()


def _override(name: str) -> Callable[..., Any]:
    base = getattr(dist.ProcessGroup, name)

    def method(self: ObservedGroup, *args: Any, **kwargs: Any) -> Any:
        if _pending:
            _sweep()
        mark = _note(self, name, args)
        try:
            work = base(self, *args, **kwargs)
        except Exception:
            _note_failure(mark, name)
            raise
        _watch(mark, name, work)
        return work

    method.__code__ = method.__code__.replace(co_name=name)
    method.__name__ = name
    return method


for _method in _METHODS:
    setattr(ObservedGroup, _method, _override(_method))


def attach(folder: str | None = None) -> bool:
    """See `tightwire.ccl.attach`."""
    global _probe
    if _probe is not None:
        return True
    try:
        _probe = _Probe(Path(folder or os.environ.get("TIGHTWIRE_CCL") or "/dev/shm/tightwire"))
        original = distributed_c10d._new_process_group_helper

        def build(*args: Any, **kwargs: Any) -> Any:
            if _probe is not None:
                _probe.writer.goodbye(Goodbye.NONE)  # it is (again) in a group
            plain = distributed_c10d.ProcessGroup
            distributed_c10d.ProcessGroup = ObservedGroup  # type: ignore[misc]
            try:
                return original(*args, **kwargs)
            finally:
                distributed_c10d.ProcessGroup = plain  # type: ignore[misc]

        distributed_c10d._new_process_group_helper = build
        threading.Thread(target=_keep_sweeping, name="tightwire-sweep", daemon=True).start()
        end = distributed_c10d.destroy_process_group

        def destroy(group: Any = None) -> None:
            whole = group is None or group is dist.group.WORLD
            _sweep()  # while the works can still be asked
            end(group)
            if whole and _probe is not None:  # a process that ends after this, even by os._exit, left in order
                _probe.writer.goodbye(Goodbye.IN_ORDER)

        distributed_c10d.destroy_process_group = dist.destroy_process_group = destroy
    except Exception as error:
        _give_up(error)
        return False
    return True


def _ring_writer() -> Any:
    try:
        from tightwire._ring import Writer  # type: ignore[import-not-found,unused-ignore]
    except ImportError:  # not built here
        from tightwire.ccl.probe.ring_writer import Writer
    return Writer


def _give_up(error: Exception) -> None:
    global _probe
    _probe = None
    print(f"tightwire: the probe stopped ({error!r}); the job runs on unobserved", file=sys.stderr, flush=True)


def _name_of(group: ObservedGroup) -> str:
    try:
        return str(group.group_name)
    except Exception:  # a group that was never named
        return "unnamed"


def _ranks_of(group: ObservedGroup) -> list[int]:
    try:
        return [int(rank) for rank in dist.get_process_group_ranks(group)]
    except Exception:  # called while the group is still being built: the default group, which holds everybody
        return list(range(group.size()))


def _first_tensor(args: tuple[Any, ...]) -> torch.Tensor | None:
    for value in args:
        while isinstance(value, list | tuple) and value:
            value = value[0]
        if isinstance(value, torch.Tensor):
            return value
    return None
