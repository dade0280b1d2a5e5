"""The looks at the transport that are kept of the time in which all is well."""

from itertools import pairwise

from tightwire.ccl.analyzer.slow.detector import QUIET_LOOKS, _closest


def test_looks_are_kept_the_farther_apart_the_older_they_are() -> None:
    kept: list[float] = []
    for at_s in range(100):
        kept.append(float(at_s))
        if len(kept) > QUIET_LOOKS:
            del kept[_closest(kept)]
    assert (kept[0], kept[-2:]) == (0.0, [98.0, 99.0])
    gaps_s = [later - earlier for earlier, later in pairwise(kept)]
    assert gaps_s == sorted(gaps_s, reverse=True)
    assert 99.0 - kept[1] >= 16.0
