from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.kv.quality import models
from tightwire.kv.quality import Suite


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make small models slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def suite() -> Suite:
    return Suite.of(lengths=(64, 160), prompts=2, chunk_tokens=96)


@pytest.fixture(scope="package")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(models.qwen2(), tmp_path_factory.mktemp("qwen2"))
