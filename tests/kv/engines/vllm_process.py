"""A vLLM engine in a process of its own, forked from one that has imported vLLM already (which takes most of its start).

Commands come and events go through a pipe, as dictionaries:

| command | event |
|---|---|
| `add`: id, `ids`, `count`, `params` | `done`: id, `tokens`, `logprobs`, `start_s`, `first_s` |
| `abort`: id | none, and none for the request |
| `forget`: drop vLLM's prefix cache | `forgot` |
| `stats` | the worker's counts, blocks in use, preemptions |
| `metrics` | ours, as vLLM exposes them |
| `compare`: ids | how far the KV read through the layout is from what transformers computes |
"""

import os
import time
from multiprocessing.connection import Connection

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0", HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1",
    OMP_NUM_THREADS="1", VLLM_CPU_OMP_THREADS_BIND="nobind",
)  # fmt: skip


import prometheus_client
import torch
from transformers import AutoModelForCausalLM, DynamicCache
from vllm import LLM, SamplingParams
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer import get_kv_transfer_group

from tightwire.kv.engines.vllm.layout import select


def compare(llm, folder: str, ids: list[int]) -> dict[str, object]:
    """Relative error of K and V in the engine's cache, read through the adapter, to transformers' own."""
    cache = DynamicCache()
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        model(torch.tensor([ids]), past_key_values=cache, use_cache=True)
    layers = llm.llm_engine.vllm_config.compilation_config.static_forward_context
    worst, round_trip, isa = 0.0, True, ""
    for ours, layer in zip(layers.values(), cache.layers, strict=True):
        isa = str(ours.isa)
        layout = select(ours.attn_backend.get_name(), isa)
        blocks = list(range(1, 2 + (len(ids) - 1) // ours.kv_cache.shape[2]))
        k, v = layout.gather(ours.kv_cache, blocks, 0, len(ids))
        for got, want in ((k, layer.keys[0]), (v, layer.values[0])):
            worst = max(worst, float((got.float() - want.float()).norm() / want.float().norm()))
        before = ours.kv_cache[blocks].clone()
        ours.kv_cache[blocks] = 0
        layout.scatter([ours.kv_cache], blocks, 0, k[None], v[None])
        again = layout.gather(ours.kv_cache, blocks, 0, len(ids))
        full = len(ids) // ours.kv_cache.shape[2]
        round_trip &= torch.equal(again[0], k) and torch.equal(again[1], v)
        round_trip &= torch.equal(ours.kv_cache[blocks[:full]], before[:full])
    return {"worst": worst, "round_trip": round_trip, "isa": isa}


class Process:
    def __init__(self, options: dict, connection: Connection) -> None:
        self.say = connection.send
        torch.set_num_threads(1)
        transfer = None
        if "role" in options:
            transfer = KVTransferConfig(
                kv_connector="TightwireConnector", kv_connector_module_path="tightwire.kv.engines.vllm",
                kv_role=options["role"], kv_connector_extra_config=options["extra"],
                kv_load_failure_policy="recompute",
            )  # fmt: skip
        self.llm = LLM(
            options["model"], enforce_eager=True, dtype="bfloat16", block_size=options["block_size"],
            max_model_len=options.get("max_len", 1024), max_num_batched_tokens=options.get("step_tokens", 128),
            max_num_seqs=options.get("max_seqs", 8), num_gpu_blocks_override=options.get("blocks"),
            kv_transfer_config=transfer, skip_tokenizer_init=True, disable_log_stats=options.get("quiet", True),
        )  # fmt: skip
        self.model = options["model"]
        self.engine = self.llm.llm_engine
        self.scheduler = self.engine.engine_core.engine_core.scheduler
        self.worker = None
        if transfer is not None:
            self.worker = get_kv_transfer_group().worker
        self.started: dict[str, list[float]] = {}
        self.preemptions = 0
        preempt = self.scheduler._preempt_request

        def counted(*args: object, **kwargs: object) -> None:
            self.preemptions += 1
            preempt(*args, **kwargs)

        self.scheduler._preempt_request = counted

    @property
    def busy(self) -> bool:
        return self.engine.has_unfinished_requests() or self.scheduler.has_requests()

    def do(self, command: dict) -> None:
        if "add" in command:
            params = SamplingParams(
                temperature=0, max_tokens=command["count"], ignore_eos=True, detokenize=False, logprobs=0
            )
            if command.get("params") is not None:
                params.extra_args = {"kv_transfer_params": command["params"]}
            self.started[command["add"]] = [time.monotonic()]
            self.engine.add_request(command["add"], {"prompt_token_ids": command["ids"]}, params)
        elif "abort" in command:
            self.engine.abort_request([command["abort"]])
        elif "forget" in command:
            self.say({"forgot": self.engine.reset_prefix_cache()})
        elif "stats" in command:
            self.say({
                **(self.worker.stats() if self.worker else {}),
                "preemptions": self.preemptions,
                "fingerprint": self.worker.fingerprint if self.worker else "",
                "usage": self.scheduler.kv_cache_manager.usage, "requests": len(self.scheduler.requests),
            })  # fmt: skip
        elif "metrics" in command:
            text = prometheus_client.generate_latest().decode()
            rows = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("tightwire_kv_")]
            self.say({name.partition("{")[0]: float(value) for name, value in rows})
        elif "compare" in command:
            self.say(compare(self.llm, self.model, command["compare"]))

    def step(self) -> None:
        outputs = self.engine.step()
        for output in outputs:
            times = self.started[output.request_id]
            if len(times) == 1:
                times.append(time.monotonic())
            if output.finished:
                choice = output.outputs[0]
                tokens = list(choice.token_ids)
                chances = [step[token].logprob for step, token in zip(choice.logprobs, tokens, strict=True)]
                start_s, first_s = self.started.pop(output.request_id)
                self.say(
                    {
                        "done": output.request_id,
                        "tokens": tokens,
                        "logprobs": chances,
                        "start_s": start_s,
                        "first_s": first_s,
                    }
                )
        if not outputs:
            time.sleep(0.0005)


def run(options: dict, connection: Connection, log: str) -> None:
    """Serve until None comes. What is printed goes to `log`."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    process = Process(options, connection)
    process.say({"endpoint": process.worker.endpoint if process.worker else ""})
    while True:
        if process.busy and not connection.poll():
            process.step()
            continue
        if (command := connection.recv()) is None:
            break
        process.do(command)
    if process.worker is not None:
        process.worker.close()
