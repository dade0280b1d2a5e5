"""vLLM as an engine: a KV connector by which prefill instances push prompts' KV to decode instances, and by which
instances share prefixes through a store.

    KVTransferConfig(kv_connector="TightwireConnector", kv_connector_module_path="tightwire.kv.engines.vllm",
                     kv_role="kv_producer", kv_connector_extra_config={"endpoint": "tcp://decode:7777"})

| file | what it is |
|---|---|
| `settings.py` | the keys of `kv_connector_extra_config` |
| `plan.py` | what the scheduler's half tells the worker's half, step by step |
| `planner.py` | the scheduler's half: which tokens of which request are moved when |
| `worker.py` | the worker's half: reads and writes the engine's memory |
| `layout.py`, `blocks.py` | where K and V lie in that memory |
| `push.py`, `pull.py`, `shelf.py` | to a peer, from a peer, to and from a store |
| `auto.py` | strategy by the controller |
| `counters.py`, `metrics.py` | what is counted, and how vLLM's Prometheus endpoint shows it |
| `connector.py` | vLLM's class over all of it |

Only `connector.py` and `metrics.py` import vLLM, whose connector API is experimental.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """`TightwireConnector`, imported when vLLM asks for it: everything else here works without vLLM."""
    if name == "TightwireConnector":
        from tightwire.kv.engines.vllm.connector import TightwireConnector

        return TightwireConnector
    raise AttributeError(name)
