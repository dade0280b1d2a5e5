"""Sees every call of torch.distributed where they all come together: the dispatcher.

A `ProcessGroup` sends each of its calls, whoever made it, through an operation of the library `c10d`. We register a
kernel for the key BackendSelect, which every call passes before it gets to its backend and which torch leaves unused
there; the kernel notes the call and sends it on. Groups, backends, works and results stay what they were.

Groups that are Python classes of their own, or that come from a library that has its own way to the network, do not
come by here; `unseen` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist

from tightwire.ccl.probe.calls import CALLS, Call
from tightwire.ccl.probe.rank import Channel, Rank
from tightwire.ccl.probe.works import SWEPT_IN_CALL, Pending, Works
from tightwire.core.events import DTYPE_CODES, OPERATION_CODES

NO_PEER = 0xFFFFFFFF
MAX_SHAPES = 4096  # remembered; a job may have any number of them
_KEY = torch._C.DispatchKey.BackendSelect
_DTYPES = {getattr(torch, name): code for name, code in DTYPE_CODES.items() if hasattr(torch, name)}
_shapes: dict[Any, int] = {}
_libraries: dict[str, Any] = {}  # what they registered lives as long as they


class Recorder:
    """Notes calls for one rank. It gives up at the first error of its own: the job must not suffer."""

    def __init__(self, rank: Rank, works: Works, on_error: Callable[[Exception], None]) -> None:
        self._rank, self.works, self._on_error = rank, works, on_error
        self._groups: dict[int, tuple[Any, list[int], Channel]] = {}
        self._pairs: dict[tuple[int, str, int, int], Channel] = {}
        self.active = True

    def forget(self, group: Any = None) -> None:
        """Hold on to `group`, or to any, no longer: it is being destroyed."""
        for key in list(self._groups) if group is None else [id(group)]:
            self._groups.pop(key, None)
            self._pairs = {pair: channel for pair, channel in self._pairs.items() if pair[0] != key}

    def enter(self, call: Call, group: Any, share: Any, partner: int, tag: int, host: bool) -> Pending | None:
        """Note that the call begins."""
        try:
            self.works.sweep(SWEPT_IN_CALL)
            tensors = _flat(share)
            channel = self._channel(call, dist.ProcessGroup.unbox(group), partner, tag)
            channel.sequence = sequence = channel.sequence + 1
            size_bytes, dtype, shape = _measure(tensors)
            operation = OPERATION_CODES[call.operation]
            self._rank.writer.entered(
                channel.slot, channel.fingerprint, sequence, operation, size_bytes, dtype, shape,
                NO_PEER if partner < 0 else partner,
            )  # fmt: skip
            address = tensors[0].data_ptr() if host and tensors else 0
            return Pending(channel, sequence, operation, bool(call.point_to_point), host, address)
        except Exception as error:
            self._give_up(error)
            return None

    def entered(self, pending: Pending, work: Any) -> None:
        """The call has returned; `work` is None where nothing says when it ends."""
        try:
            work = None if work is None else dist.Work.unbox(work)
            if work is None:
                self.works.end(pending, False)
            else:
                self.works.add(pending, work)
        except Exception as error:
            self._give_up(error)

    def _channel(self, call: Call, group: Any, partner: int, tag: int) -> Channel:
        known = self._groups.get(id(group))
        if known is None:
            ranks = _ranks_of(group)
            known = self._groups[id(group)] = (group, ranks, self._rank.channel(_name_of(group), ranks))
        if not call.point_to_point:
            return known[2]
        key = (id(group), call.point_to_point, partner, tag)
        if key not in self._pairs:
            self._pairs[key] = self._pair(_name_of(group), known[1], call.point_to_point, group.rank(), partner, tag)
        return self._pairs[key]

    def _pair(self, name: str, ranks: list[int], direction: str, own: int, partner: int, tag: int) -> Channel:
        if partner < 0:
            return self._rank.channel(f"{name} any→{ranks[own]}", [ranks[own]], True)
        source, target = (own, partner) if direction == "to" else (partner, own)
        label = f"{name} {ranks[source]}→{ranks[target]}" + (f" tag {tag}" if tag else "")
        return self._rank.channel(label, [ranks[source], ranks[target]], True)

    def _give_up(self, error: Exception) -> None:
        self.active = False
        self._on_error(error)


def install(recorder: Recorder) -> None:
    """Once in a process. Raises RuntimeError when this torch has no such operations."""
    after = torch._C._dispatch_keyset_full_after(_KEY)
    library = torch.library.Library("c10d", "IMPL")  # type: ignore[no-untyped-call]
    for schema in torch._C._jit_get_all_schemas():
        name = schema.name.removeprefix("c10d::")
        arguments = [argument.name for argument in schema.arguments]
        if schema.name.startswith("c10d::") and "process_group" in arguments:
            call, operator = CALLS.get(name, Call("unknown")), getattr(torch.ops.c10d, name).default
            kernel = _kernel(recorder, call, arguments, operator, after)
            library.impl(name, kernel, _KEY.name, with_keyset=True)  # type: ignore[no-untyped-call]
            _libraries[library.ns] = library
    if not _libraries:
        raise RuntimeError("this build of torch has no c10d operations")
    functional = _libraries["wait"] = torch.library.Library("_c10d_functional", "IMPL")  # type: ignore[no-untyped-call]
    wait = _wait_kernel(recorder, torch.ops._c10d_functional.wait_tensor.default, after)
    functional.impl("wait_tensor", wait, _KEY.name, with_keyset=True)  # type: ignore[no-untyped-call]


def unseen(group: Any) -> str | None:
    """Why the calls of `group` do not come by here; None when they do."""
    if group is None or type(group) is dist.ProcessGroup or group is dist.GroupMember.NON_GROUP_MEMBER:
        return None
    kind = type(group)
    return f"group {_name_of(group)!r} is a {kind.__module__}.{kind.__qualname__}, which does not call torch's backends"


def _kernel(recorder: Recorder, call: Call, arguments: list[str], operator: Any, after: Any) -> Callable[..., Any]:
    redispatch = operator.redispatch
    group_at = arguments.index("process_group")
    share_at = arguments.index(call.share) if call.share in arguments else None
    partner_at = arguments.index(call.partner) if call.partner in arguments else None
    tag_at = arguments.index("tag") if "tag" in arguments else None

    def kernel(keys: Any, *args: Any) -> Any:
        pending = None
        device = next((tensor.device.type for tensor in _flat(args[0])), "cpu")
        if recorder.active and device != "meta":  # which only asks what the result would look like
            pending = recorder.enter(
                call, args[group_at], None if share_at is None else args[share_at],
                -1 if partner_at is None else args[partner_at], 0 if tag_at is None else args[tag_at], device == "cpu",
            )  # fmt: skip
        if pending is None:
            return redispatch(keys & after, *args)
        try:
            result = redispatch(keys & after, *args)
        except BaseException:
            recorder.works.end(pending, True)
            raise
        recorder.entered(pending, result[-1] if isinstance(result, tuple) else result)
        return result

    return kernel


def _wait_kernel(recorder: Recorder, operator: Any, after: Any) -> Callable[..., Any]:
    """Functional collectives wait by tensor: `_c10d_functional::wait_tensor`."""
    redispatch = operator.redispatch

    def kernel(keys: Any, tensor: torch.Tensor) -> Any:
        pending = None
        if recorder.active and type(tensor) is torch.Tensor and tensor.device.type == "cpu":
            pending = recorder.works.of_tensor(tensor.data_ptr())
        if pending is None:
            return redispatch(keys & after, tensor)
        return recorder.works.wait(pending, lambda: redispatch(keys & after, tensor))

    return kernel


def _measure(tensors: list[torch.Tensor]) -> tuple[int, int, int]:
    """(bytes, dtype code, hash of the shapes) of what the ranks give alike."""
    if not tensors:
        return 0, 0, 0
    first = tensors[0]
    shapes = tuple(tensor.shape for tensor in tensors)
    shape = _shapes.get(shapes)
    if shape is None:
        shape = crc32(repr([tuple(each) for each in shapes]).encode())
        if len(_shapes) < MAX_SHAPES:
            _shapes[shapes] = shape
    size = sum(tensor.numel() for tensor in tensors) * first.element_size()
    return size, _DTYPES.get(first.dtype, 0), shape


def _flat(share: Any) -> list[torch.Tensor]:
    if isinstance(share, torch.Tensor):
        return [share]
    if isinstance(share, list | tuple):
        return [tensor for each in share for tensor in _flat(each)]
    return []


def _name_of(group: Any) -> str:
    try:
        return str(group.group_name)
    except Exception:  # a group that was never named
        return "unnamed"


def _ranks_of(group: Any) -> list[int]:
    try:
        return [int(rank) for rank in dist.get_process_group_ranks(group)]
    except Exception:  # called while the group is still being built: the default group, which holds everybody
        return list(range(group.size()))
