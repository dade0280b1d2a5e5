"""vLLM's class, both halves of it: the `Planner` for the scheduler's, the `Worker` for the worker's."""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
)

from tightwire.errors import ConfigError
from tightwire.kv.engines.vllm import identity, metrics
from tightwire.kv.engines.vllm.layout import select
from tightwire.kv.engines.vllm.plan import Plan
from tightwire.kv.engines.vllm.planner import Planner
from tightwire.kv.engines.vllm.settings import Settings
from tightwire.kv.engines.vllm.shelf import Index, open_prefixes
from tightwire.kv.engines.vllm.worker import Worker


class Metadata(KVConnectorMetadata):  # type: ignore[misc]
    """What vLLM carries from one half to the other."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan


class TightwireConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """Which half it is, is told by `role`. Raises ConfigError for settings, LayoutError for unknown KV memory."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        transfer = vllm_config.kv_transfer_config
        self.settings = Settings.parse(dict(transfer.kv_connector_extra_config or {}), transfer.kv_role)
        parallel = vllm_config.parallel_config
        if parallel.tensor_parallel_size != 1 or parallel.pipeline_parallel_size != 1:
            raise ConfigError("tensor and pipeline parallel sizes other than 1 are not supported yet")
        if len(kv_cache_config.kv_cache_groups) > 1:
            raise ConfigError("models with several KV cache groups are not supported yet")
        self._config = vllm_config
        self._worker: Worker | None = None
        self._planner: Planner | None = None
        self._index: Index | None = None
        prefixes = None
        if self.settings.store:
            name = identity.stored_fingerprint(vllm_config)
            prefixes = open_prefixes(self.settings, name, identity.layout(vllm_config))
        if role == KVConnectorRole.WORKER:
            self._worker = Worker(self.settings, identity.fingerprint(vllm_config), prefixes)
        else:
            self._index = Index(prefixes) if prefixes is not None else None
            lookup = self._index.lookup if self._index is not None else None
            self._planner = Planner(self.settings, lookup, self.settings.store_chunk_tokens)

    @property
    def worker(self) -> Worker:
        """The half that moves bytes. Only in the worker's connector."""
        assert self._worker is not None
        return self._worker

    @property
    def planner(self) -> Planner:
        """The half that decides what is moved. Only in the scheduler's connector."""
        assert self._planner is not None
        return self._planner

    @property
    def requires_kv_delivery(self) -> bool:
        """False: what is sent is copied within the step that computed it, whatever becomes of the request."""
        return False

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        return True

    # Worker
    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        name, cache = next(iter(kv_caches.items()))
        layer = self._config.compilation_config.static_forward_context[name]
        isa = str(getattr(layer, "isa", "unknown")) if cache.device.type == "cpu" else ""
        self.worker.register(select(layer.attn_backend.get_name(), isa), kv_caches)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        assert isinstance(connector_metadata, Metadata)
        self.worker.begin(connector_metadata.plan)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        self.worker.load()

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing to wait for: a request is scheduled only after its load is finished."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        self.worker.computed(layer_name)

    def wait_for_save(self) -> None:
        self.worker.end()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        return None, self.worker.take_finished() or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self.worker.take_bad_blocks()

    def get_kv_connector_stats(self) -> metrics.Stats | None:
        taken = self._worker.counters.take() if self._worker is not None else None
        return metrics.Stats(taken) if taken else None

    def shutdown(self) -> None:
        for half in (self._worker, self._index):
            if half is not None:
                half.close()

    # Scheduler
    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        count = self.planner.matched(request, num_computed_tokens)
        return count, bool(count)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self.planner.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return Metadata(self.planner.plan(scheduler_output))

    def update_connector_output(self, connector_output: Any) -> None:
        self.planner.loaded(connector_output.finished_recving or set())

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        self.planner.finished(request.request_id)
        return False, None  # what is sent was copied out of the blocks: they can be freed

    # Metrics
    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> metrics.Stats:
        return metrics.Stats(data or {})

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: dict[int, list[object]]
    ) -> metrics.Prometheus:
        return metrics.Prometheus(vllm_config, metric_types, labelnames, per_engine_labelvalues)
