"""The connector's counts in vLLM's log and at its Prometheus endpoint, as `tightwire_kv_…_total`."""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from tightwire.kv.engines.vllm.counters import COUNTS


class Stats(KVConnectorStats):  # type: ignore[misc]
    """Sums by name, as `Counters.take` gives them."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data=data)

    def reset(self) -> None:
        self.data.clear()

    def aggregate(self, other: Stats) -> Stats:
        names = self.data.keys() | other.data.keys()
        return Stats({name: self.data.get(name, 0) + other.data.get(name, 0) for name in names})

    def reduce(self) -> dict[str, int | float]:
        return {name: round(self.data[name], 6) for name in COUNTS if name in self.data}

    def is_empty(self) -> bool:
        return not self.data


class Prometheus(KVConnectorPromMetrics):  # type: ignore[misc]
    """A counter for each of `COUNTS`, with vLLM's labels."""

    def __init__(
        self,
        vllm_config: Any,
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._counters = {}
        for name, text in COUNTS.items():
            counter = self._counter_cls(name=f"tightwire_kv_{name}", documentation=f"{text}.", labelnames=labelnames)
            for engine, labels in per_engine_labelvalues.items():
                self._counters[name, engine] = counter.labels(*labels)

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, amount in transfer_stats_data.items():
            self._counters[name, engine_idx].inc(amount)
