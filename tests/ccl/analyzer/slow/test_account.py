"""The baseline of steps: slow to follow what becomes slower, quick to a job that was learnt in a bad moment."""

import numpy as np
import pytest

from tightwire.ccl.analyzer.slow.account import FASTER, FOLLOW, LEARNT, Account, Base


def account(usual_s: float, *lengths_s: float) -> Account:
    made = Account()
    made.base = Base(usual_s, np.zeros(2), np.full(2, usual_s / 2), np.full(1, usual_s / 2))
    for length_s in lengths_s:
        made.length_s.append(length_s)
        made.late_s.append(np.zeros(2))
        made.own_s.append(np.full(2, length_s / 2))
        made.transfer_s.append(np.full(1, length_s / 2))
    return made


def test_what_becomes_longer_is_followed_slowly() -> None:
    made = account(1.0, *[1.05] * LEARNT)
    made.follow()
    assert made.base.step_s == pytest.approx(1 + 0.05 * FOLLOW)


@pytest.mark.parametrize(("faster", "at_once"), [(LEARNT // 2 + 1, True), (LEARNT // 2 - 1, False)])
def test_a_job_that_is_faster_than_it_was_is_learnt_anew(faster: int, at_once: bool) -> None:
    length_s = 0.9 * FASTER
    made = account(1.0, *[1.0] * (LEARNT - faster), *[length_s] * faster)
    made.follow()
    assert (made.base.step_s == pytest.approx(length_s)) is at_once
    if at_once:
        assert made.base.own_s.tolist() == pytest.approx([length_s / 2] * 2)
        assert made.base.transfer_s.tolist() == pytest.approx([length_s / 2])
