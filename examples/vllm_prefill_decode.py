"""Two vLLM engines on this machine: one prefills and pushes the KV, the other decodes with it.

    python examples/vllm_prefill_decode.py MODEL_FOLDER [STRATEGY]
"""

from __future__ import annotations

import os
import subprocess
import sys

PROMPT = list(range(300, 600))  # token ids
PARAMS = {"transfer_id": "example"}


def engine(model: str, role: str, extra: dict[str, object]):
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM
    from vllm.config import KVTransferConfig

    transfer = KVTransferConfig(
        kv_connector="TightwireConnector",
        kv_connector_module_path="tightwire.kv.engines.vllm",
        kv_role=role,
        kv_connector_extra_config=extra,
        kv_load_failure_policy="recompute",
    )
    llm = LLM(model, enforce_eager=True, max_model_len=1024, kv_transfer_config=transfer, skip_tokenizer_init=True)
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    return llm, get_kv_transfer_group().worker


def generate(llm, count: int) -> list[int]:
    from vllm import SamplingParams

    sampling = SamplingParams(
        temperature=0, max_tokens=count, detokenize=False, extra_args={"kv_transfer_params": PARAMS}
    )
    return list(llm.generate({"prompt_token_ids": PROMPT}, sampling, use_tqdm=False)[0].outputs[0].token_ids)


def prefill(model: str, endpoint: str, strategy: str) -> None:
    llm, worker = engine(model, "kv_producer", {"endpoint": endpoint, "strategy": strategy})
    generate(llm, 1)
    worker.close()  # waits until what is queued is sent
    stats = worker.stats()
    print(f"prefill: {stats['tokens_sent']} tokens sent in {stats['wire_bytes']} bytes", flush=True)


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    model, strategy = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "raw"
    if len(sys.argv) > 3:
        prefill(model, sys.argv[3], strategy)
        return
    llm, worker = engine(model, "kv_consumer", {"timeout_s": 60})
    subprocess.run([sys.executable, __file__, model, strategy, worker.endpoint], check=True)
    tokens = generate(llm, 12)
    print(f"decode: {worker.stats()['tokens_loaded']} tokens loaded; continuation {tokens}", flush=True)
    worker.close()


if __name__ == "__main__":
    main()
