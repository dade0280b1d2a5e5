from hypothesis import given
from hypothesis import strategies as st

from tightwire.kv.transfer.places import Places


@given(st.integers(1, 64), st.lists(st.tuples(st.booleans(), st.integers(0, 20))))
def test_places_never_overlap_and_lie_inside(size: int, steps: list[tuple[bool, int]]) -> None:
    places: Places[int] = Places(size)
    held: dict[int, range] = {}
    for number, (gives, value) in enumerate(steps):
        if gives and value:
            offset = places.give(number, value)
            if not held and value <= size:
                assert offset is not None
            if offset is not None:
                taken = range(offset, offset + value)
                assert 0 <= offset <= size - value
                assert not any(set(taken) & set(other) for other in held.values())
                held[number] = taken
        elif held:
            key = list(held)[value % len(held)]
            places.free(key)
            assert key not in places
            del held[key]
