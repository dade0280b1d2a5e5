"""Sees every call of torch.distributed where they all come together: the dispatcher.

A `ProcessGroup` sends each of its calls, whoever made it, through an operation of the library `c10d`. We register a
kernel for the key BackendSelect, which every call passes before it gets to its backend and which torch leaves unused
there; the kernel notes the call and sends it on. Groups, backends, works and results stay what they were. This is the
kernel in Python; `native` has the same one in C++, which costs a fraction.

Groups that are Python classes of their own, or that come from a library that has its own way to the network, do not
come by here; `unseen` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist

from tightwire.ccl.probe.calls import CALLS, Call
from tightwire.ccl.probe.rank import NO_PEER, Channel, Rank
from tightwire.ccl.probe.works import SWEPT_IN_CALL, Pending, Works
from tightwire.core.events import DTYPE_CODES, OPERATION_CODES

MAX_SHAPES = 4096  # remembered; a job may have any number of them
_KEY = torch._C.DispatchKey.BackendSelect
_DTYPES = {getattr(torch, name): code for name, code in DTYPE_CODES.items() if hasattr(torch, name)}
_shapes: dict[Any, int] = {}
_libraries: dict[str, Any] = {}  # what they registered lives as long as they


class Observer:
    """Notes calls for one rank. It gives up at the first error of its own: the job must not suffer. Once in a process.
    Raises RuntimeError when this torch has no such operations."""

    def __init__(self, rank: Rank, on_error: Callable[[Exception], None]) -> None:
        self._rank, self._on_error = rank, on_error
        self.works = Works(rank.writer)
        self._groups: dict[int, tuple[Any, Channel]] = {}
        self._pairs: dict[tuple[int, str, int, int], Channel] = {}
        self.active = True
        _install(self)

    def watch(self) -> None:
        """From now on, for as long as the process lives."""
        self.works.watch()

    def sweep(self) -> None:
        """Note what has ended."""
        self.works.sweep()

    def stop(self) -> None:
        """Nothing: the thread that asks is Python's own."""

    def disable(self) -> None:
        """In a forked child, a data loader for example: it must not speak for its parent."""
        self.active = False
        self.works.forget()

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
            known = self._groups[id(group)] = (group, new_channel(self._rank, group))
        if not call.point_to_point:
            return known[1]
        key = (id(group), call.point_to_point, partner, tag)
        if key not in self._pairs:
            self._pairs[key] = new_channel(self._rank, group, call.point_to_point, partner, tag)
        return self._pairs[key]

    def _give_up(self, error: Exception) -> None:
        self.active = False
        self._on_error(error)


def new_channel(rank: Rank, group: Any, direction: str = "", partner: int = -1, tag: int = 0) -> Channel:
    """That of `group`, or of its pair with `partner` (negative for anyone) in the `direction` "to" or "from" it."""
    name, ranks = _name_of(group), _ranks_of(group)
    if not direction:
        return rank.channel(name, ranks)
    own = group.rank()
    if partner < 0:
        return rank.channel(f"{name} any→{ranks[own]}", [ranks[own]], True)
    source, target = (own, partner) if direction == "to" else (partner, own)
    label = f"{name} {ranks[source]}→{ranks[target]}" + (f" tag {tag}" if tag else "")
    return rank.channel(label, [ranks[source], ranks[target]], True)


def operations() -> Iterator[tuple[str, list[str]]]:
    """The name and the arguments of each operation of this torch that belongs to a group."""
    for schema in torch._C._jit_get_all_schemas():
        arguments = [argument.name for argument in schema.arguments]
        if schema.name.startswith("c10d::") and "process_group" in arguments:
            yield schema.name.removeprefix("c10d::"), arguments


def unseen(group: Any) -> str | None:
    """Why the calls of `group` do not come by here; None when they do."""
    if group is None or type(group) is dist.ProcessGroup or group is dist.GroupMember.NON_GROUP_MEMBER:
        return None
    kind = type(group)
    return f"group {_name_of(group)!r} is a {kind.__module__}.{kind.__qualname__}, which does not call torch's backends"


def _install(observer: Observer) -> None:
    after = torch._C._dispatch_keyset_full_after(_KEY)
    library = torch.library.Library("c10d", "IMPL")  # type: ignore[no-untyped-call]
    for name, arguments in operations():
        call, operator = CALLS.get(name, Call("unknown")), getattr(torch.ops.c10d, name).default
        kernel = _kernel(observer, call, arguments, operator, after)
        library.impl(name, kernel, _KEY.name, with_keyset=True)  # type: ignore[no-untyped-call]
        _libraries[library.ns] = library
    if not _libraries:
        raise RuntimeError("this build of torch has no c10d operations")
    functional = _libraries["wait"] = torch.library.Library("_c10d_functional", "IMPL")  # type: ignore[no-untyped-call]
    wait = _wait_kernel(observer, torch.ops._c10d_functional.wait_tensor.default, after)
    functional.impl("wait_tensor", wait, _KEY.name, with_keyset=True)  # type: ignore[no-untyped-call]


def _kernel(observer: Observer, call: Call, arguments: list[str], operator: Any, after: Any) -> Callable[..., Any]:
    redispatch = operator.redispatch
    group_at = arguments.index("process_group")
    share_at = arguments.index(call.share) if call.share in arguments else None
    partner_at = arguments.index(call.partner) if call.partner in arguments else None
    tag_at = arguments.index("tag") if "tag" in arguments else None

    def kernel(keys: Any, *args: Any) -> Any:
        pending = None
        device = next((tensor.device.type for tensor in _flat(args[0])), "cpu")
        if observer.active and device != "meta":  # which only asks what the result would look like
            pending = observer.enter(
                call, args[group_at], None if share_at is None else args[share_at],
                -1 if partner_at is None else args[partner_at], 0 if tag_at is None else args[tag_at], device == "cpu",
            )  # fmt: skip
        if pending is None:
            return redispatch(keys & after, *args)
        try:
            result = redispatch(keys & after, *args)
        except BaseException:
            observer.works.end(pending, True)
            raise
        observer.entered(pending, result[-1] if isinstance(result, tuple) else result)
        return result

    return kernel


def _wait_kernel(observer: Observer, operator: Any, after: Any) -> Callable[..., Any]:
    """Functional collectives wait by tensor: `_c10d_functional::wait_tensor`."""
    redispatch = operator.redispatch

    def kernel(keys: Any, tensor: torch.Tensor) -> Any:
        pending = None
        if observer.active and type(tensor) is torch.Tensor and tensor.device.type == "cpu":
            pending = observer.works.of_tensor(tensor.data_ptr())
        if pending is None:
            return redispatch(keys & after, tensor)
        return observer.works.wait(pending, lambda: redispatch(keys & after, tensor))

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
