"""What the tests of fleets share as fixtures."""

from collections.abc import Iterator

import pytest

from tests.kv.store.helpers import RedisServer


@pytest.fixture
def server() -> Iterator[RedisServer]:
    made = RedisServer()
    yield made
    made.kill()
