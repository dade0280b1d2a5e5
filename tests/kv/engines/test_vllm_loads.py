"""What an engine that waits for loads is told, and when."""

import threading
import time

import torch

from tightwire.kv.engines.vllm.blocks import Blocks
from tightwire.kv.engines.vllm.counters import Counters
from tightwire.kv.engines.vllm.layout import KV_LAST
from tightwire.kv.engines.vllm.loads import Loads
from tightwire.kv.engines.vllm.plan import Move

LONG_S = 20.0
MOVE = Move("a", "", (0,), 0, 8)


def test_an_idle_engine_hears_at_once_of_a_load_that_ends() -> None:
    loads = Loads(Blocks(KV_LAST, [torch.zeros(2, 1, 16, 8)]), Counters())
    assert loads.take_finished(LONG_S) == set()  # nothing is underway
    begun, end = threading.Event(), threading.Event()

    def source(on_block: object) -> str | None:
        begun.set()
        end.wait(LONG_S)
        return "gone"

    thread = threading.Thread(target=loads.run, args=(MOVE, source))
    thread.start()
    assert begun.wait(LONG_S)
    start_s = time.monotonic()
    assert loads.take_finished() == loads.take_finished(0.01) == set()
    threading.Timer(0.05, end.set).start()
    assert loads.take_finished(LONG_S) == {"a"}
    assert time.monotonic() - start_s < LONG_S / 2
    thread.join()
    assert loads.take_bad_blocks() == {0}
    assert loads.take_finished(LONG_S) == set()
