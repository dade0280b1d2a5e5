"""The scheduler's half: which tokens of which request are pushed, loaded and saved, step by step. No I/O here.

The life of a request, from this side:

| vLLM calls | what is decided |
|---|---|
| `matched` | how many tokens a peer or the store will bring; None while the store is still asked, by an engine that computes |
| `allocated` | where they go: a load is planned, once a request, also after a preemption |
| `plan` | with every step: the prompt's tokens computed by then are pushed and saved |
| `finished` | what was begun and is not complete is given up |
"""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

from tightwire.kv.engines.vllm.plan import MAX_ID_CHARS, PUSH_TOKENS, Move, Options, Plan, Push, Shelved
from tightwire.kv.engines.vllm.settings import Settings
from tightwire.kv.store.keys import TAIL_TOKENS

logger = logging.getLogger(f"vllm.{__name__}")
Lookup = Callable[[tuple[int, ...]], Future[int]]
LOOKUP_WAIT_S = 0.002  # for the store's answer, by an engine that has nothing to compute


@dataclass
class _Job:
    """One request: `needed` tokens of its prompt matter to a decode side, which computes the last one itself."""

    prompt: tuple[int, ...]
    transfer: str | None
    options: Options
    shelved: bool
    blocks: list[int] = field(default_factory=list)
    lookup: Future[int] | None = None
    found: int = 0
    computed: int | None = None
    pushed: int = 0
    saved: int = 0
    asked: bool = False
    loading: bool = False

    @property
    def needed(self) -> int:
        return len(self.prompt) - 1


class Planner:
    """`lookup`: asks the store how many leading tokens it has, without waiting; None without a store.
    `chunk_tokens`: the store's."""

    def __init__(self, settings: Settings, lookup: Lookup | None = None, chunk_tokens: int = 1) -> None:
        self._settings, self._lookup, self._chunk_tokens = settings, lookup, chunk_tokens
        self._jobs: dict[str, _Job] = {}
        self._computing: set[str] = set()  # requests of which something was scheduled
        self._waited = False  # in this step, for nothing
        self._next = Plan()

    def matched(self, request: Any, computed: int) -> int | None:
        """Tokens beyond the `computed` first ones that will be loaded; None: ask again in the next step."""
        job = self._job(request)
        if job is None or job.asked:
            return 0
        if self._settings.pulls and job.transfer is not None:
            return max(job.needed - computed, 0)
        if not job.shelved:
            return 0
        assert self._lookup is not None
        if job.lookup is None:
            job.lookup = self._lookup(job.prompt)
        if not job.lookup.done() and not self._answers_soon(job.lookup):
            return None
        job.found = job.saved = job.lookup.result()
        return max(min(job.found, job.needed) - computed, 0)

    def allocated(self, request: Any, block_ids: Sequence[int], external: int) -> None:
        """`block_ids` hold the request; `external` of its tokens are to be loaded."""
        job = self._jobs.get(request.request_id)
        if job is None or external <= 0 or job.asked:
            return
        job.asked = job.loading = True
        name, ids = request.request_id, tuple(block_ids)
        if self._settings.pulls and job.transfer is not None:
            self._next.pulls.append(Move(name, job.transfer, ids, job.needed - external, job.needed))
        else:
            stop = min(job.found, job.needed)
            tokens = job.prompt[: job.found]
            self._next.fetches.append(Shelved(name, "", ids, stop - external, stop, tokens))

    def plan(self, output: Any) -> Plan:
        """What the step that `output` (vLLM's SchedulerOutput) describes has to move."""
        plan, self._next = self._next, Plan()
        plan.scheduled = output.total_num_scheduled_tokens
        self._computing |= output.num_scheduled_tokens.keys()
        self._waited = False
        for new in output.scheduled_new_reqs:
            self._grow(plan, output, new.req_id, new.block_ids[0], new.num_computed_tokens, replace=True)
        cached = output.scheduled_cached_reqs
        for i, name in enumerate(cached.req_ids):
            ids = cached.new_block_ids[i]
            replace = name in cached.resumed_req_ids
            self._grow(plan, output, name, ids[0] if ids else [], cached.num_computed_tokens[i], replace=replace)
        return plan

    def loaded(self, request_ids: Sequence[str] | set[str]) -> None:
        """The worker has announced that these loads are over."""
        for name in request_ids:
            if name in self._jobs:
                self._jobs[name].loading = False

    def finished(self, request_id: str) -> None:
        self._computing.discard(request_id)
        job = self._jobs.pop(request_id, None)
        if job is not None and (job.loading or 0 < job.pushed < job.needed):
            self._next.cancels.append(request_id)

    def _answers_soon(self, lookup: Future[int]) -> bool:
        """An engine that has nothing to compute waits for it, once a step at most."""
        if self._computing or self._waited:
            return False
        self._waited = not wait([lookup], LOOKUP_WAIT_S).done
        return not self._waited

    def _job(self, request: Any) -> _Job | None:
        """None for requests that take no part."""
        job = self._jobs.get(request.request_id)
        if job is None:
            params, prompt = request.kv_transfer_params, request.prompt_token_ids
            if not prompt:
                return None
            moves = params is not None and (self._settings.pushes or self._settings.pulls)
            # KV that depends on more than the tokens cannot be found by them.
            plain = not (request.lora_request or request.mm_features or request.cache_salt)
            shelved = self._lookup is not None and plain and len(prompt) > self._chunk_tokens
            if not moves and not shelved:
                return None
            job = _Job(
                tuple(prompt), transfer_name(params or {}, prompt) if moves else None, _options(params or {}), shelved
            )
            self._jobs[request.request_id] = job
        return job

    def _grow(self, plan: Plan, output: Any, name: str, ids: list[int], computed: int, *, replace: bool) -> None:
        job = self._jobs.get(name)
        if job is None:
            return
        job.blocks = list(ids) if replace else [*job.blocks, *ids]
        if job.computed is None:
            job.computed = computed
        reached = min(computed + output.num_scheduled_tokens[name], len(job.prompt))
        blocks = tuple(job.blocks)
        if self._settings.pushes and job.transfer is not None:
            stop = job.needed if reached >= job.needed else reached // PUSH_TOKENS * PUSH_TOKENS
            if stop > job.pushed and (job.options.stream or stop == job.needed):
                plan.pushes.append(
                    Push(name, job.transfer, blocks, job.pushed, stop, job.needed, min(job.computed, job.needed), job.options)
                )  # fmt: skip
                job.pushed = stop
        if job.shelved:
            self._save(plan, name, job, reached)

    def _save(self, plan: Plan, name: str, job: _Job, reached: int) -> None:
        """Whole chunks as they are computed; the prompt's tail with the last of them, unless it begins with KV that came
        from a tail: from turn to turn of a conversation it would be quantised again and again."""
        chunk = self._chunk_tokens
        stop = reached // chunk * chunk
        if reached == len(job.prompt) and (job.found % chunk == 0 or job.found < stop):
            stop = reached // TAIL_TOKENS * TAIL_TOKENS
        if stop > job.saved:
            plan.saves.append(Shelved(name, "", tuple(job.blocks), job.saved // chunk * chunk, stop, job.prompt[:stop]))
            job.saved = stop


def transfer_name(params: dict[str, Any], prompt: Sequence[int]) -> str:
    """The name under which both sides know a transfer: `params["transfer_id"]` and a hash of the prompt's tokens, so
    that an id used twice never brings another prompt's KV."""
    digest = hashlib.sha256(array("q", prompt).tobytes()).hexdigest()[:32]
    name = params.get("transfer_id")
    if isinstance(name, str) and 0 < len(name) <= MAX_ID_CHARS:
        return f"{name}:{digest}"
    if name is not None:
        logger.warning("tightwire: transfer_id %r is not a text of 1-%d characters: ignored", name, MAX_ID_CHARS)
    return digest


def _options(params: dict[str, Any]) -> Options:
    try:
        return Options.parse(params)
    except ValueError as error:
        logger.warning("tightwire: %s; the settings decide", error)
        return Options()
