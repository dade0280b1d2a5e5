"""When the transport is looked at, and which looks are kept."""

from itertools import pairwise

import numpy as np
import pytest

from tightwire.ccl.analyzer.slow.looks import DOUBTFUL_EVERY_S, EVERY_S, FIRST_S, QUIET, Looks, closest
from tightwire.ccl.connections import columns

NOBODY = columns([])


def test_looks_are_kept_the_farther_apart_the_older_they_are() -> None:
    kept: list[float] = []
    for at_s in range(100):
        kept.append(float(at_s))
        if len(kept) > QUIET:
            del kept[closest(kept)]
    assert (kept[0], kept[-2:]) == (0.0, [98.0, 99.0])
    gaps_s = [later - earlier for earlier, later in pairwise(kept)]
    assert gaps_s == sorted(gaps_s, reverse=True)
    assert 99.0 - kept[1] >= 16.0


@pytest.mark.parametrize("step_s", [DOUBTFUL_EVERY_S / times for times in (1, 2, 3, 4, 1.5)])
def test_looks_in_doubt_find_every_part_of_a_step(step_s: float) -> None:
    """Steps of 100 ms, looked at every 300 ms, once hid a queue in which bytes stood for half of each."""
    looks, at_s = Looks(), 0.0
    phases = []
    for _ in range(8):
        looks.take(at_s, NOBODY, doubting=True)
        phases.append(at_s % step_s / step_s)
        assert not looks.due(at_s + DOUBTFUL_EVERY_S / 3, attentive=True, doubting=True)
        assert looks.due(at_s + DOUBTFUL_EVERY_S, attentive=True, doubting=True)
        at_s += looks.soon_s
    gaps = np.diff(sorted(phases), append=min(phases) + 1)
    assert gaps.max() < 0.5


def test_the_first_looks_come_soon_and_a_doubt_begins_anew() -> None:
    looks = Looks()
    assert looks.due(0.0, attentive=False, doubting=False)
    for number in range(QUIET):
        at_s = number * FIRST_S
        looks.take(at_s, NOBODY, doubting=False)
    assert not looks.due(at_s + FIRST_S, attentive=False, doubting=False)
    assert looks.due(at_s + EVERY_S, attentive=False, doubting=False)
    assert looks.enough
    looks.begin()
    assert not looks.enough
    assert looks.due(at_s, attentive=True, doubting=True)
