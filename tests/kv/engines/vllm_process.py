"""A vLLM engine in a process of its own: one JSON command a line on stdin, one answer a line after `@@` on stdout."""

import json
import os
import sys

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0", HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1"
)


def say(answer: object) -> None:
    print("@@" + json.dumps(answer), flush=True)


def compare(llm, folder: str, ids: list[int]) -> dict[str, object]:
    """Relative error of K and V in the engine's cache, read through the adapter, to transformers' own."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    from tightwire.kv.engines.vllm_layout import select

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
        layout.scatter(ours.kv_cache, blocks, 0, k, v)
        again = layout.gather(ours.kv_cache, blocks, 0, len(ids))
        full = (len(ids) // ours.kv_cache.shape[2]) or 1
        round_trip &= torch.equal(again[0], k) and torch.equal(again[1], v)
        if len(ids) >= full * ours.kv_cache.shape[2]:
            round_trip &= torch.equal(ours.kv_cache[blocks[:full]], before[:full])
    return {"worst": worst, "round_trip": round_trip, "isa": isa}


def main() -> None:
    options = json.loads(sys.argv[1])
    from vllm import LLM, SamplingParams
    from vllm.config import KVTransferConfig

    transfer = None
    if "role" in options:
        transfer = KVTransferConfig(
            kv_connector="TightwireConnector", kv_connector_module_path="tightwire.kv.engines.vllm",
            kv_role=options["role"], kv_connector_extra_config=options["extra"], kv_load_failure_policy="recompute",
        )  # fmt: skip
    llm = LLM(
        options["model"], enforce_eager=True, dtype="bfloat16", block_size=options["block_size"], max_model_len=1024,
        max_num_batched_tokens=128, max_num_seqs=8, kv_transfer_config=transfer, skip_tokenizer_init=True,
    )  # fmt: skip
    worker = None
    if transfer is not None:
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        worker = get_kv_transfer_group().worker
    say({"endpoint": worker.endpoint if worker else ""})
    for line in sys.stdin:
        command = json.loads(line)
        if "compare" in command:
            say(compare(llm, options["model"], command["compare"]))
            continue
        params = SamplingParams(temperature=0, max_tokens=command["count"], ignore_eos=True, detokenize=False)
        if command.get("params") is not None:
            params.extra_args = {"kv_transfer_params": command["params"]}
        done = llm.generate({"prompt_token_ids": command["ids"]}, params, use_tqdm=False)
        names = ("tokens_sent", "tokens_loaded", "loads_failed", "sends_failed")
        counts = {name: getattr(worker, name) for name in names} if worker else {}
        say({"tokens": list(done[0].outputs[0].token_ids), **counts})
    if worker is not None:
        worker.close()


if __name__ == "__main__":
    main()
