"""One training step after the other: what each rank enters and leaves, and when.

Per microbatch and stage: layers of work, each with an all-reduce over the tensor ranks; tokens to the experts and back;
activations to the next stage, gradients back; then the replicas' all-reduce and the world's. A collective begins when its
last rank comes and lasts as long as the slowest of its links needs. What never happens is at infinity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tightwire.ccl.faults.simulate.fault import Fault
from tightwire.ccl.faults.simulate.layout import Layout
from tightwire.core.events import DTYPE_CODES, OPERATION_CODES, RECORD, Kind

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_ALLREDUCE, _ALLTOALL, _SEND, _RECV, _BARRIER = (
    OPERATION_CODES[name] for name in ("allreduce", "alltoall_base", "send", "recv", "barrier")
)
_FLOAT32 = DTYPE_CODES["float32"]
NO_PEER = 0xFFFFFFFF


@dataclass(frozen=True)
class Program:
    """One step's work and bytes, and what interrupts steps now and then. Jitter is a share (log-normal), of work and of
    transfers (`wire_jitter`), `uneven` of a whole replica's work from step to step; `spike_share` of the ranks' steps get
    one of `spike_s`."""

    microbatches: int = 2
    layers: int = 2
    layer_s: float = 0.01
    jitter: float = 0.1
    wire_jitter: float = 0.0
    uneven: float = 0.0
    spike_share: float = 0.0
    spike_s: float = 0.5
    exit_s: float = 0.0005
    activation_bytes: int = 1 << 20
    gradient_bytes: int = 1 << 24
    link_bytes_per_s: float = 2e9
    inside_bytes_per_s: float = 1e11
    checkpoint_every: int = 0
    checkpoint_s: float = 5.0
    evaluate_every: int = 0
    evaluate_rounds: int = 10


class Physics:
    """`step()` runs one step of all ranks and returns its records with their ranks, in the order of time for each rank;
    `links` [pairs, 2] are the ranks at their ends, `acked_bytes` and `busy_s` [pairs] what went over them so far, `held`
    [pairs] whether something stands in their queue that never gets through."""

    def __init__(self, layout: Layout, program: Program, faults: Sequence[Fault], rng: np.random.Generator) -> None:
        self.layout, self.program, self.faults = layout, program, faults
        self.rng = rng
        self.steps = 0
        self.now_s: Floats = np.zeros(layout.ranks.shape)
        self._sequence = np.zeros(
            (len(layout.facts), 2), np.int64
        )  # of a group; of a pair by its source and its target
        self._groups = np.array([facts.group for facts in layout.facts], np.uint64)
        self._emitted: list[tuple[npt.NDArray[np.void], Ints]] = []
        self.links = layout.links
        self._numbers = {(int(a), int(b)): number for number, (a, b) in enumerate(self.links)}
        self.acked_bytes, self.busy_s = np.zeros(len(self.links)), np.zeros(len(self.links))
        self.held = np.zeros(len(self.links), bool)
        self._known: dict[bytes, Ints] = {}
        self._mixed: set[int] = set()
        self._quiet_s = self._step_s()
        self._speed = self.speed()  # in the step that is being run

    def step(self) -> tuple[npt.NDArray[np.void], Ints]:
        """(records [N], their ranks [N])."""
        layout, program = self.layout, self.program
        self._speed = self.speed()
        for fault in self._acting("stop", "kill", "loop"):
            self.now_s.flat[fault.rank] = np.inf
        for fault in self._acting("sleep", "both"):
            self.now_s.flat[fault.rank] += (fault.severity - 1) * self._quiet_s
        spikes = self.rng.random(self.now_s.shape) < program.spike_share
        self.now_s[spikes] += program.spike_s
        pace = 1 + program.uneven * (2 * self.rng.random((1, layout.data, 1)) - 1)
        for _ in range(program.microbatches):
            self._pass(range(layout.pipeline), 1.0 * pace, "forward")
        for _ in range(program.microbatches):
            self._pass(reversed(range(layout.pipeline)), 2.0 * pace, "backward")
        self._reduce_gradients()
        self._world(_ALLREDUCE, 4)
        self._other_phases()
        self.steps += 1
        emitted, self._emitted = self._emitted, []
        records, ranks = np.concatenate([each for each, _ in emitted]), np.concatenate([each for _, each in emitted])
        order = by_rank(ranks)  # each rank's are in the order of time as they are
        return records.take(order), ranks[order]

    def speed(self) -> Floats:
        """[pairs] bytes per second of each link now; 0 when it is broken."""
        speed = np.full(len(self.links), self.program.link_bytes_per_s)
        for fault in self.faults:
            if not fault.acts(self.steps):
                continue
            touched = self._touched(fault)
            if fault.kind in ("drop", "dead"):
                speed[touched] = 0.0
            if fault.kind in ("slow", "slow-pair", "both"):
                speed[touched] = min(self._slow_speed(fault), self.program.link_bytes_per_s)
        return speed

    def touched(self) -> npt.NDArray[np.bool_]:
        """[pairs] whether packets share a queue with something slow."""
        found = np.zeros(len(self.links), bool)
        for fault in self.faults:
            if fault.acts(self.steps) and fault.kind in ("slow", "slow-pair", "both"):
                found |= self._touched(fault)
        return found

    def _touched(self, fault: Fault) -> npt.NDArray[np.bool_]:
        here: npt.NDArray[np.bool_] = (self.links == fault.rank).any(axis=1)
        if fault.kind in ("drop", "slow-pair"):
            here &= (self.links == fault.peer).any(axis=1)
        return here

    def _slow_speed(self, fault: Fault) -> float:
        """So slow that the gradients' all-reduce (or, without replicas, the activations) takes the time asked for."""
        program, size = self.program, self.layout.data
        extra_s = (fault.severity - 1) * self._quiet_s
        moved = (
            2 * (size - 1) / size * program.gradient_bytes
            if size > 1
            else 2 * program.microbatches * program.activation_bytes
        )
        return moved / (extra_s + moved / program.link_bytes_per_s)

    def _step_s(self) -> float:
        """About how long an undisturbed step takes."""
        program, layout = self.program, self.layout
        passes = 3 * (program.microbatches + layout.pipeline - 1) * program.layers * program.layer_s
        return passes + 2 * program.gradient_bytes / program.link_bytes_per_s

    def _acting(self, *kinds: str) -> list[Fault]:
        return [fault for fault in self.faults if fault.kind in kinds and fault.acts(self.steps)]

    def _pass(self, stages: Iterable[int], work: Floats, direction: str) -> None:
        layout, program = self.layout, self.program
        for number, stage in enumerate(stages):
            if number:
                self._hand_over(stage, direction)
            for _ in range(program.layers):
                noise = np.exp(program.jitter * self.rng.standard_normal(self.now_s[stage].shape))
                self.now_s[stage] += program.layer_s * work[0] * noise
                if layout.tensor > 1:
                    groups = layout.first["tensor"] + stage * layout.data + np.arange(layout.data)
                    wire_s = self._ring(layout.ranks[stage], program.activation_bytes)
                    self.now_s[stage] = self._collective(
                        self.now_s[stage], layout.ranks[stage], groups, _ALLREDUCE, program.activation_bytes, wire_s
                    )
            if layout.expert > 1:
                for _ in ("to the experts", "back"):
                    self._exchange_tokens(stage)

    def _hand_over(self, stage: int, direction: str) -> None:
        layout, program = self.layout, self.program
        forward = direction == "forward"
        source = stage - 1 if forward else stage + 1
        pairs = layout.data * layout.tensor
        groups = layout.first[direction] + min(source, stage) * pairs + np.arange(pairs)
        sent_s, come_s = self.now_s[source].ravel(), self.now_s[stage].ravel()
        senders, receivers = layout.ranks[source].ravel(), layout.ranks[stage].ravel()
        size = program.activation_bytes
        wire_s = self._send(senders, receivers, size)
        over_s = np.maximum(sent_s, come_s) + wire_s
        self._sequence[groups] += 1
        self._emit(sent_s, senders, groups, Kind.ENTERED, _SEND, size, 0)
        self._emit(sent_s + self._exit(sent_s.shape), senders, groups, Kind.DONE, _SEND, size, 0)
        self._emit(come_s, receivers, groups, Kind.ENTERED, _RECV, size, 1)
        left_s = over_s + self._exit(over_s.shape)
        self._emit(left_s, receivers, groups, Kind.DONE, _RECV, size, 1)
        self.now_s[source] = (sent_s + program.exit_s).reshape(self.now_s[source].shape)
        self.now_s[stage] = left_s.reshape(self.now_s[stage].shape)

    def _exchange_tokens(self, stage: int) -> None:
        """An all-to-all of each expert group."""
        layout, size = self.layout, self.program.activation_bytes
        members = layout.experts[stage].reshape(-1, layout.expert)
        groups = layout.first["expert"] + stage * len(members) + np.arange(len(members))
        wire_s = np.zeros(len(members))
        for step in range(1, layout.expert):
            each_s = self._send(members.ravel(), np.roll(members, -step, axis=1).ravel(), size / layout.expert)
            wire_s = np.maximum(wire_s, each_s.reshape(members.shape).max(axis=1))
        entered_s = self.now_s.flat[members]
        self.now_s.flat[members] = self._collective(entered_s, members, groups, _ALLTOALL, size, wire_s)

    def _reduce_gradients(self) -> None:
        layout, program = self.layout, self.program
        if layout.data == 1:
            return
        for stage in range(layout.pipeline):
            groups = layout.first["data"] + stage * layout.tensor + np.arange(layout.tensor)
            members = layout.ranks[stage].T  # [T, D]
            wire_s = self._ring(members, program.gradient_bytes)
            self.now_s[stage] = self._collective(
                self.now_s[stage].T, members, groups, _ALLREDUCE, program.gradient_bytes, wire_s
            ).T

    def _world(self, op: int, size: int) -> None:
        layout = self.layout
        members = layout.ranks.reshape(1, -1)
        wire_s = np.full(1, 1e-4 if self._speed.min(initial=1.0) > 0 else np.inf)
        self.now_s = self._collective(
            self.now_s.reshape(1, -1), members, np.zeros(1, np.int64), op, size, wire_s
        ).reshape(layout.ranks.shape)

    def _other_phases(self) -> None:
        program = self.program
        done = self.steps + 1
        if program.checkpoint_every and done % program.checkpoint_every == 0:
            self.now_s.flat[0] += program.checkpoint_s
            self._world(_BARRIER, 0)
        if program.evaluate_every and done % program.evaluate_every == 0:
            for _ in range(program.evaluate_rounds):
                self.now_s += program.layer_s * self.rng.random(self.now_s.shape)
                self._world(_ALLREDUCE, 8)

    def _ring(self, members: Ints, size: int) -> Floats:
        """Seconds for each group [G, members], whose ranks hand `size` bytes round."""
        count = members.shape[1]
        moved = 2 * (count - 1) / count * size
        each_s = self._send(members.ravel(), np.roll(members, -1, axis=1).ravel(), moved)
        longest: Floats = each_s.reshape(members.shape).max(axis=1)
        return longest

    def _send(self, senders: Ints, receivers: Ints, size: float) -> Floats:
        """How long that takes over each link; hosts' own ranks have a faster way."""
        inside = self.layout.hosts[senders] == self.layout.hosts[receivers]
        numbers = self._numbers_of(senders, receivers)
        speed = np.where(inside, self.program.inside_bytes_per_s, self._speed[numbers])
        with np.errstate(divide="ignore"):
            each_s: Floats = size / speed
        if self.program.wire_jitter:
            each_s *= np.exp(self.program.wire_jitter * self.rng.standard_normal(len(each_s)))
        sent, moving = np.isfinite(self.now_s.flat[senders]), np.isfinite(each_s)
        self.held[numbers[sent & ~moving]] = True
        moving &= sent
        self.acked_bytes[numbers[moving]] += size
        self.busy_s[numbers[moving]] += each_s[moving]
        return each_s

    def _numbers_of(self, senders: Ints, receivers: Ints) -> Ints:
        """The numbers of these links."""
        key = senders.tobytes() + receivers.tobytes()
        if key not in self._known:
            pairs = zip(senders.tolist(), receivers.tolist(), strict=True)
            self._known[key] = np.array([self._numbers[pair] for pair in pairs], np.int64)
        return self._known[key]

    def _collective(self, entered_s: Floats, members: Ints, groups: Ints, op: int, size: int, wire_s: Floats) -> Floats:
        """`entered_s` and `members` [G, n], `groups` and `wire_s` [G] → when they leave [G, n]."""
        self._sequence[groups] += 1
        sizes = np.full(members.shape, size)
        ops = np.full(members.shape, op)
        if op == _ALLREDUCE and size == self.program.gradient_bytes:
            for fault in self._acting("shape", "operation"):
                wrong = members == fault.rank
                if wrong.any() and fault.rank not in self._mixed:
                    self._mixed.add(fault.rank)
                    sizes[wrong] += 4 if fault.kind == "shape" else 0
                    ops[wrong] = OPERATION_CODES["reduce_scatter"] if fault.kind == "operation" else op
                    wire_s = np.where(wrong.any(axis=1), np.inf, wire_s)
        over_s = entered_s.max(axis=1, keepdims=True) + wire_s[:, None]
        left_s = over_s + self._exit(entered_s.shape)
        each = np.repeat(groups, members.shape[1])
        self._emit(entered_s.ravel(), members.ravel(), each, Kind.ENTERED, ops.ravel(), sizes.ravel(), 0)
        self._emit(left_s.ravel(), members.ravel(), each, Kind.DONE, ops.ravel(), sizes.ravel(), 0)
        return np.asarray(left_s, np.float64)

    def _exit(self, shape: tuple[int, ...]) -> Floats:
        drawn = np.full(shape, self.program.exit_s)
        drawn *= self.rng.random(shape)
        return drawn

    def _emit(self, time_s: Floats, ranks: Ints, groups: Ints, kind: Kind, op: object, size: object, end: int) -> None:
        real = np.isfinite(time_s)
        records = np.zeros(len(time_s), RECORD)
        records["group"], records["seq"] = self._groups[groups], self._sequence[groups, end]
        records["op"], records["bytes"], records["kind"] = op, size, kind
        records["dtype"], records["peer"], records["shape"] = _FLOAT32, NO_PEER, records["bytes"] & 0xFFFF
        records["time_ns"][real] = (time_s[real] * 1e9).astype(np.uint64)
        told = np.flatnonzero(real)
        self._emitted.append((records.take(told), ranks[told]))


def by_rank(ranks: Ints) -> Ints:
    """The order of ranks (fewer than 2**16) in which those of one rank stay as they are."""
    return np.argsort(ranks.astype(np.uint16), kind="stable")
