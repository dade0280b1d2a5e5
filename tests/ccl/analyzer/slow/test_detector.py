"""The detector's rules, each by itself."""

import numpy as np
import pytest

from tightwire.ccl.analyzer.slow.detector import _is_small
from tightwire.ccl.analyzer.slow.excess import Excess
from tightwire.ccl.analyzer.slow.links import SlowLinks


@pytest.mark.parametrize(("own", "small"), [(0.2, True), (0.5, False)])
def test_a_rank_counts_beside_a_slow_link_where_the_others_wait_for_it(own: float, small: bool) -> None:
    """Who receives over the link works longer, too: 60 ms of 33 in a real job, for which the others waited 8 ms."""
    full = Excess(20, 2.0, np.array([own, 0.0, 0.4]), np.array([1.8, 0.0, 0.0]), np.array([1.6]))
    slow = SlowLinks(((0, 1),), (), {})
    assert _is_small((0,), slow, full) is small
    assert not _is_small((0,), None, full)
    assert not _is_small((), slow, full)
    assert not _is_small((0, 2), slow, full)
