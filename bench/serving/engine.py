"""One host of a serving benchmark: a vLLM engine in a process of its own.

`python -m serving.engine OPTIONS` (from `bench/`); commands come as JSON lines on stdin, events go after `@@` as JSON lines to stdout.

| command | event |
|---|---|
| `{"add": id, "ids": [...], "count": n, "params": {...} or null}` | `{"first": id, "at_s"}`, `{"done": id, "at_s", "tokens"}` |
| `{"forget": true}`: drop the prefix cache | `{"forgot": true}` |
| `{"stats": true}` | `{"stats": {...}}` of the connector's worker |

Times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0", HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1",
    VLLM_LOGGING_LEVEL="WARNING", OMP_NUM_THREADS="1", VLLM_CPU_OMP_THREADS_BIND="nobind",
)  # fmt: skip
IDLE_S = 0.0005  # between steps that did nothing: a load is awaited


def say(event: object) -> None:
    print("@@" + json.dumps(event), flush=True)


def main() -> None:
    options = json.loads(sys.argv[1])
    if options.get("namespace"):
        from tightwire.net.testbed import enter

        enter(options["namespace"])
    if options.get("cores"):
        os.sched_setaffinity(0, options["cores"])
    import torch
    from vllm import LLM, SamplingParams
    from vllm.config import KVTransferConfig

    torch.set_num_threads(1)
    transfer = None
    if "transfer" in options:
        transfer = KVTransferConfig(
            kv_connector="TightwireConnector", kv_connector_module_path="tightwire.kv.engines.vllm",
            kv_load_failure_policy="recompute", **options["transfer"],
        )  # fmt: skip
    llm = LLM(
        options["model"], enforce_eager=True, dtype="bfloat16", block_size=32, max_model_len=options["max_len"],
        max_num_batched_tokens=options["step_tokens"], max_num_seqs=16, kv_transfer_config=transfer,
        skip_tokenizer_init=True, disable_log_stats=True,
    )  # fmt: skip
    worker = None
    if transfer is not None:
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        worker = get_kv_transfer_group().worker
    commands: queue.Queue[dict[str, object] | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            commands.put(json.loads(line))
        commands.put(None)

    threading.Thread(target=read, daemon=True).start()
    say({"ready": True, "endpoint": worker.endpoint if worker else ""})
    engine, started = llm.llm_engine, set()
    while True:
        try:
            command = commands.get(block=not engine.has_unfinished_requests())
        except queue.Empty:
            pass
        else:
            if command is None:
                break
            if "add" in command:
                params = SamplingParams(temperature=0, max_tokens=command["count"], ignore_eos=True, detokenize=False)
                if command.get("params") is not None:
                    params.extra_args = {"kv_transfer_params": command["params"]}
                engine.add_request(command["add"], {"prompt_token_ids": command["ids"]}, params)
            elif "forget" in command:
                engine.reset_prefix_cache()
                say({"forgot": True})
            elif "stats" in command:
                say({"stats": worker.stats() if worker else {}})
            continue
        outputs = engine.step()
        at_s = time.monotonic()
        for output in outputs:
            tokens = list(output.outputs[0].token_ids)
            if tokens and output.request_id not in started:
                started.add(output.request_id)
                say({"first": output.request_id, "at_s": at_s})
            if output.finished:
                started.discard(output.request_id)
                say({"done": output.request_id, "at_s": at_s, "tokens": tokens})
        if not outputs:
            time.sleep(IDLE_S)
    if worker is not None:
        worker.close()


if __name__ == "__main__":
    main()
