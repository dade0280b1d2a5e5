"""Which rank has which place, which groups there are and on which host a rank is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tightwire.ccl.summary import GroupFacts
from tightwire.core.events import group_fingerprint

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Tensor ranks are neighbours; `per_host` ranks share a host; each `expert` replicas share out their experts."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 2
    per_host: int = 8
    expert: int = 1

    def __post_init__(self) -> None:
        assert self.data % self.expert == 0, "replicas share experts in groups of one size"

    @property
    def world(self) -> int:
        return self.tensor * self.pipeline * self.data

    @cached_property
    def ranks(self) -> Ints:
        """[P, D, T]"""
        return np.arange(self.world).reshape(self.pipeline, self.data, self.tensor)

    @cached_property
    def hosts(self) -> Ints:
        """[ranks]"""
        return np.arange(self.world) // self.per_host

    @cached_property
    def experts(self) -> Ints:
        """[P, D / E, T, E]"""
        shape = (self.pipeline, self.data // self.expert, self.expert, self.tensor)
        return self.ranks.reshape(shape).swapaxes(2, 3)

    @cached_property
    def facts(self) -> list[GroupFacts]:
        """All groups: the world, then tensor [P, D], data [P, T], expert [P, D / E, T], forward and backward pairs
        [P-1, D, T]."""
        found = [_facts("world", self.ranks.ravel().tolist())]
        if self.tensor > 1:
            found += [
                _facts(f"tensor {p} {d}", self.ranks[p, d].tolist()) for p, d in np.ndindex(self.pipeline, self.data)
            ]
        if self.data > 1:
            found += [
                _facts(f"data {p} {t}", self.ranks[p, :, t].tolist()) for p, t in np.ndindex(self.pipeline, self.tensor)
            ]
        if self.expert > 1:
            found += [
                _facts(f"expert {p} {b} {t}", self.experts[p, b, t].tolist())
                for p, b, t in np.ndindex(self.experts.shape[:3])
            ]
        for step in (1, -1):
            for p, d, t in np.ndindex(self.pipeline - 1, self.data, self.tensor):
                pair = [int(self.ranks[p, d, t]), int(self.ranks[p + 1, d, t])][::step]
                found.append(_facts(f"{pair[0]}→{pair[1]}", pair, point_to_point=True))
        return found

    @cached_property
    def links(self) -> Ints:
        """[pairs, 2]: the rings of the tensor and of the data-parallel groups, all pairs of the expert groups, and neighbours
        in the pipeline both ways."""
        ranks, experts = self.ranks, self.experts
        ends = [(ranks, np.roll(ranks, -1, axis=axis)) for axis, size in ((2, self.tensor), (1, self.data)) if size > 1]
        ends += [(experts, np.roll(experts, -step, axis=3)) for step in range(1, self.expert)]
        ends += [(ranks[:-1], ranks[1:]), (ranks[1:], ranks[:-1])]
        pairs: Ints = np.unique(np.concatenate([np.stack(both, axis=-1).reshape(-1, 2) for both in ends]), axis=0)
        return pairs

    @cached_property
    def first(self) -> dict[str, int]:
        """Where in `facts` the groups of each kind begin."""
        tensor = self.pipeline * self.data if self.tensor > 1 else 0
        data = self.pipeline * self.tensor if self.data > 1 else 0
        pairs = (self.pipeline - 1) * self.data * self.tensor
        expert = self.world // self.expert if self.expert > 1 else 0
        begins = np.cumsum([0, 1, tensor, data, expert, pairs]).tolist()
        return dict(zip(("world", "tensor", "data", "expert", "forward", "backward"), begins, strict=True))


def _facts(name: str, ranks: list[int], point_to_point: bool = False) -> GroupFacts:
    return GroupFacts(group_fingerprint(name, ranks), name, ranks, point_to_point)
