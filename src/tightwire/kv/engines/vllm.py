"""vLLM as an engine: a KV connector by which a prefill instance pushes a prompt's KV to a decode instance.

    KVTransferConfig(kv_connector="TightwireConnector", kv_connector_module_path="tightwire.kv.engines.vllm",
                     kv_role="kv_producer", kv_connector_extra_config={"endpoint": "tcp://decode:7777"})

vLLM builds the class twice: the scheduler's half decides what to send and what to wait for and says so in a
`Plan` for every step; the worker's half moves the bytes. A request takes part when it carries
`kv_transfer_params`. The connector API of vLLM is experimental: nothing else in Tightwire imports vLLM.
"""

from __future__ import annotations

import hashlib
import json
import math
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
)
from vllm.logger import init_logger

from tightwire.errors import ConfigError, LayoutError, TightwireError
from tightwire.kv.block import KVBlock
from tightwire.kv.engines.vllm_layout import Layout, select
from tightwire.kv.strategy import Strategy
from tightwire.kv.transfer.receiver import Receiver
from tightwire.kv.transfer.sender import DEFAULT_CHUNK_TOKENS, Sender

logger = init_logger(f"vllm.{__name__}")
_STOP_TIMEOUT_S = 5.0
_MAX_QUEUED_SENDS = 64
_MAX_LOADS = 16


@dataclass(frozen=True)
class Settings:
    """The keys of `kv_connector_extra_config`."""

    endpoint: str = ""
    bind: str = "tcp://127.0.0.1:*"
    strategy: str = "raw"
    timeout_s: float = 30.0

    @classmethod
    def parse(cls, extra: dict[str, Any], producer: bool) -> Settings:
        """Raises ConfigError that names the key, its value and what is allowed."""
        allowed = ("endpoint", "strategy", "timeout_s") if producer else ("bind", "timeout_s")
        for key, value in extra.items():
            if key not in allowed:
                raise ConfigError(f"kv_connector_extra_config: unknown key {key!r}; allowed are {', '.join(allowed)}")
            if key != "timeout_s" and not isinstance(value, str):
                raise ConfigError(f"kv_connector_extra_config: {key}={value!r} must be a text")
        timeout_s = extra.get("timeout_s", cls.timeout_s)
        number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
        if not number or not math.isfinite(timeout_s) or timeout_s <= 0:
            raise ConfigError(
                f"kv_connector_extra_config: timeout_s={timeout_s!r} must be a positive number of seconds"
            )
        if producer and not extra.get("endpoint"):
            raise ConfigError("kv_connector_extra_config: endpoint is missing; give the decode side's tcp://host:port")
        settings = cls(**extra)
        Strategy.parse(settings.strategy)
        return settings


@dataclass(frozen=True)
class Move:
    """Tokens [start, stop) of one request, whose token t lies in block `block_ids[t // block_size]`."""

    request_id: str
    transfer_id: str
    block_ids: tuple[int, ...]
    start: int
    stop: int


@dataclass
class Plan(KVConnectorMetadata):  # type: ignore[misc]
    """What the scheduler asks of the worker in one step."""

    saves: list[Move] = field(default_factory=list)
    loads: list[Move] = field(default_factory=list)


def transfer_id(params: dict[str, Any], prompt: list[int]) -> str:
    """The name under which both sides know a transfer: `params["transfer_id"]`, else a hash of the prompt's tokens."""
    name = params.get("transfer_id")
    if isinstance(name, str) and 0 < len(name) <= 128:
        return name
    if name is not None:
        logger.warning("tightwire: transfer_id %r is not a text of 1-128 characters; using the prompt's hash", name)
    return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()


class TightwireConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """Both halves; which one is told by `role`. Raises ConfigError for settings, LayoutError for unknown KV memory."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        transfer = vllm_config.kv_transfer_config
        self._producer = transfer.kv_role == "kv_producer"
        if transfer.kv_role not in ("kv_producer", "kv_consumer"):
            raise ConfigError(f"kv_role={transfer.kv_role!r} is not supported; use kv_producer or kv_consumer")
        parallel = vllm_config.parallel_config
        if parallel.tensor_parallel_size != 1 or parallel.pipeline_parallel_size != 1:
            raise ConfigError("tensor and pipeline parallel sizes other than 1 are not supported yet")
        if len(kv_cache_config.kv_cache_groups) > 1:
            raise ConfigError("models with several KV cache groups are not supported yet")
        self.settings = Settings.parse(dict(transfer.kv_connector_extra_config or {}), self._producer)
        self._scheduler = _Scheduler(self._producer)
        self._worker: _Worker | None = None
        if role == KVConnectorRole.WORKER:
            self._worker = _Worker(vllm_config, self.settings, self._producer)

    @property
    def worker(self) -> _Worker:
        """The half that moves bytes: its `endpoint` and its counts. Only in the worker's connector."""
        assert self._worker is not None
        return self._worker

    # Worker
    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self.worker.register(kv_caches)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        for move in self._plan().loads:
            self.worker.load(move)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing to wait for: a request is scheduled only after its load is finished."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing to do for each layer: `wait_for_save` gathers whole prompts."""

    def wait_for_save(self) -> None:
        for move in self._plan().saves:
            self.worker.save(move)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        return None, self.worker.take_finished() or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self.worker.take_bad_blocks()

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()

    # Scheduler
    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        count = self._scheduler.expected(request, num_computed_tokens)
        return count, count > 0

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self._scheduler.allocated(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return self._scheduler.plan(scheduler_output)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        self._scheduler.forget(request.request_id)
        return False, None  # what is sent was copied out of the blocks: they can be freed

    def _plan(self) -> Plan:
        plan = self._get_connector_metadata()
        assert isinstance(plan, Plan)
        return plan


class _Scheduler:
    """Which prompts are to be waited for (decode) and which are complete and to be sent (prefill)."""

    def __init__(self, producer: bool) -> None:
        self._producer = producer
        self._loads: list[Move] = []
        self._asked: set[str] = set()  # sent or asked for: once a request, also after a preemption
        self._prompts: dict[str, tuple[str, int]] = {}  # request: transfer, tokens to send
        self._blocks: dict[str, list[int]] = {}

    def expected(self, request: Any, computed: int) -> int:
        if self._producer or request.kv_transfer_params is None or request.request_id in self._asked:
            return 0
        return max(len(request.prompt_token_ids or ()) - 1 - computed, 0)

    def allocated(self, request: Any, blocks: Any, external: int) -> None:
        if request.kv_transfer_params is None or not request.prompt_token_ids:
            return
        name, stop = (
            transfer_id(request.kv_transfer_params, request.prompt_token_ids),
            len(request.prompt_token_ids) - 1,
        )
        if self._producer:
            if stop > 0 and request.request_id not in self._asked:
                self._prompts.setdefault(request.request_id, (name, stop))
        elif external > 0:
            self._asked.add(request.request_id)
            ids = tuple(blocks.get_block_ids()[0])
            self._loads.append(Move(request.request_id, name, ids, stop - external, stop))

    def plan(self, output: Any) -> Plan:
        plan = Plan(loads=self._loads)
        self._loads = []
        for new in output.scheduled_new_reqs:
            self._grow(plan, output, new.req_id, new.block_ids[0], new.num_computed_tokens, replace=True)
        cached = output.scheduled_cached_reqs
        for i, name in enumerate(cached.req_ids):
            ids = cached.new_block_ids[i]
            replace = name in cached.resumed_req_ids
            self._grow(plan, output, name, ids[0] if ids else [], cached.num_computed_tokens[i], replace=replace)
        return plan

    def forget(self, request_id: str) -> None:
        self._asked.discard(request_id)
        self._prompts.pop(request_id, None)
        self._blocks.pop(request_id, None)

    def _grow(self, plan: Plan, output: Any, name: str, ids: list[int], computed: int, *, replace: bool) -> None:
        if name not in self._prompts:
            return
        blocks = self._blocks[name] = list(ids) if replace else [*self._blocks.get(name, []), *ids]
        transfer, stop = self._prompts[name]
        if computed + output.num_scheduled_tokens[name] > stop:  # the whole prompt, in however many chunks
            plan.saves.append(Move(name, transfer, tuple(blocks), 0, stop))
            del self._prompts[name], self._blocks[name]
            self._asked.add(name)


class _Worker:
    """Moves KV between the engine's memory and the wire. The engine's thread only copies; encoding, sending,
    receiving, decoding and writing are done by threads of our own."""

    def __init__(self, vllm_config: Any, settings: Settings, producer: bool) -> None:
        self._config, self._settings = vllm_config, settings
        self._caches: list[torch.Tensor] = []
        self._names: list[str] = []
        self._layout: Layout | None = None
        self._lock = threading.Lock()
        self._finished: set[str] = set()
        self._bad_blocks: set[int] = set()
        self._closing = False
        self.tokens_sent = self.tokens_loaded = self.loads_failed = self.sends_failed = self.wire_bytes = 0
        self.fingerprint = fingerprint(vllm_config)
        self.endpoint = settings.endpoint
        self._strategy = Strategy.parse(settings.strategy)
        self._sends: queue.Queue[tuple[Move, KVBlock] | None] = queue.Queue(_MAX_QUEUED_SENDS)
        self._sender: Sender | None = None
        self._receiver: Receiver | None = None
        if producer:
            self._sender = Sender(settings.endpoint, fingerprint=self.fingerprint)
            self._thread = threading.Thread(target=self._send, name="tightwire-vllm-send", daemon=True)
            self._thread.start()
        else:
            self._receiver = Receiver(settings.bind, fingerprint=self.fingerprint)
            self.endpoint = self._receiver.endpoint
            self._loaders = ThreadPoolExecutor(_MAX_LOADS, "tightwire-vllm-load")
            logger.info("tightwire: waiting for KV at %s", self.endpoint)

    def register(self, caches: dict[str, torch.Tensor]) -> None:
        self._names, self._caches = list(caches), list(caches.values())

    def save(self, move: Move) -> None:
        """Copy the KV out of the engine's blocks and queue it. When the queue is full the transfer is dropped and
        the decode side recomputes: prefill never waits for a slow link."""
        layout = self._known_layout()
        pairs = [layout.gather(cache, move.block_ids, move.start, move.stop) for cache in self._caches]
        k, v = (torch.stack([pair[side].cpu() for pair in pairs]) for side in (0, 1))
        try:
            self._sends.put_nowait((move, KVBlock(k, v, token_start=move.start)))
        except queue.Full:
            self.sends_failed += 1
            logger.warning("tightwire: %s dropped: %d transfers wait already", move.transfer_id, _MAX_QUEUED_SENDS)

    def load(self, move: Move) -> None:
        self._loaders.submit(self._load, move)

    def take_finished(self) -> set[str]:
        with self._lock:
            taken, self._finished = self._finished, set()
        return taken

    def take_bad_blocks(self) -> set[int]:
        with self._lock:
            taken, self._bad_blocks = self._bad_blocks, set()
        return taken

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._sender is not None:
            try:
                self._sends.put(None, timeout=_STOP_TIMEOUT_S)
                self._thread.join(_STOP_TIMEOUT_S)
            except queue.Full:
                pass  # the daemon thread ends with the process
            if not self._thread.is_alive():
                self._sender.close()
        if self._receiver is not None:
            self._loaders.shutdown(wait=False, cancel_futures=True)
            self._receiver.close()

    def _known_layout(self) -> Layout:
        if self._layout is None:
            layer = self._config.compilation_config.static_forward_context[self._names[0]]
            backend = layer.attn_backend.get_name()
            isa = str(getattr(layer, "isa", "unknown")) if self._caches[0].device.type == "cpu" else ""
            layout = select(backend, isa)
            for cache in self._caches:
                layout.check(cache)
            self._layout = layout
            logger.info("tightwire: KV layout %s (%s %s)", layout.name, backend, isa)
        return self._layout

    def _send(self) -> None:
        assert self._sender is not None
        while (item := self._sends.get()) is not None:
            move, block = item
            try:
                report = self._sender.send(
                    move.transfer_id, block.token_chunks(DEFAULT_CHUNK_TOKENS), self._strategy,
                    layers=block.layers, tokens=block.tokens, timeout_s=self._settings.timeout_s,
                )  # fmt: skip
                if not report.ok:
                    raise TightwireError(report.error)
                self.tokens_sent += block.tokens
                self.wire_bytes += report.wire_bytes
            except Exception as error:  # whatever it is: the decode side recomputes, and the next transfer is tried
                self.sends_failed += 1
                logger.warning("tightwire: sending %s failed: %s", move.transfer_id, error)

    def _load(self, move: Move) -> None:
        assert self._receiver is not None
        loaded, start = False, move.start
        try:
            layout = self._known_layout()
            written = torch.zeros(len(self._caches), move.stop - move.start, dtype=torch.bool)
            result = self._receiver.wait(
                move.transfer_id, self._settings.timeout_s, lambda block: self._write(layout, move, block, written)
            )
            loaded = result.ok and bool(written.all())
            if not loaded:
                whole = written.all(dim=0).tolist()
                start += whole.index(False) if False in whole else 0
                logger.warning(
                    "tightwire: %s: %s; tokens from %d on are recomputed", move.transfer_id, result.error, start
                )
        except Exception as error:  # a thread must never leave its request waiting for ever
            logger.warning("tightwire: loading %s failed: %s; it is recomputed", move.transfer_id, error)
        with self._lock:
            if loaded:
                self.tokens_loaded += move.stop - move.start
            else:
                self.loads_failed += 1
                self._bad_blocks.update(move.block_ids[start // self._block_size : -(-move.stop // self._block_size)])
            self._finished.add(move.request_id)

    @property
    def _block_size(self) -> int:
        return self._caches[0].shape[2]

    def _write(self, layout: Layout, move: Move, block: KVBlock, written: torch.Tensor) -> None:
        """Write what lies in the load's range. Raises LayoutError when the block is not of this model."""
        if block.layer_start + block.layers > len(self._caches):
            raise LayoutError(f"layers up to {block.layer_start + block.layers} for a model of {len(self._caches)}")
        start = max(block.token_start, move.start)
        stop = min(block.token_start + block.tokens, move.stop)
        if start >= stop:
            return
        inside = slice(start - block.token_start, stop - block.token_start)
        for layer, (k, v) in enumerate(_pairs(block), block.layer_start):
            layout.scatter(self._caches[layer], move.block_ids, start, k[:, inside], v[:, inside])
            written[layer, start - move.start : stop - move.start] = True


def _pairs(block: KVBlock) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(block.k.unbind(0), block.v.unbind(0), strict=True)


def fingerprint(vllm_config: Any) -> str:
    """What must agree for KV to be exchanged: layers, kv heads, head_dim, dtype and RoPE; not the block size."""
    model = vllm_config.model_config
    text = model.hf_text_config
    rope = {key: getattr(text, key, None) for key in ("rope_theta", "rope_parameters", "rope_scaling")}
    digest = hashlib.sha256(json.dumps(rope, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return (
        f"vllm:l{text.num_hidden_layers}:h{model.get_total_num_kv_heads()}:d{model.get_head_size()}"
        f":{str(model.dtype).removeprefix('torch.')}:rope-{digest}"
    )
