"""A store in memory is bounded, by use."""

from tests.kv.store.helpers import key, value
from tightwire.kv.store.memory import Memory


def test_bounded_by_use_and_a_prefix_goes_from_its_end() -> None:
    memory = Memory(4000)
    names = [key(number) for number in range(4)]
    for name in names:
        assert memory.put(name, value(name))
    assert memory.contains(names[:2]) == 2
    assert memory.put(key(9), value(key(9)))
    assert memory.get(names[2], 1000) is None
    assert memory.put(key(10), value(key(10)))
    assert memory.put(key(11), value(key(11)))
    assert memory.contains(names) == 1
    assert not memory.put(key(12), value(key(12), 4001))
    assert memory.get(names[0], 999) is None  # too large for the reader: a miss, and it goes
    assert memory.get(names[0], 1000) is None


def test_a_value_is_kept_as_it_was() -> None:
    memory, data = Memory(100), bytearray(b"abc")
    memory.put(key(1), memoryview(data))
    data[0] = 0
    assert memory.get(key(1), 10) == b"abc"
    assert memory.put(key(1), memoryview(b"x" * 100))
    assert memory.get(key(1), 100) == b"x" * 100
