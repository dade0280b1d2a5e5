import random

import msgspec
from tests.kv.control.library import FOUR, LIBRARY, REQUEST, TEN, link

from tightwire.core.clock import FakeClock
from tightwire.kv.control.controller import Controller
from tightwire.kv.control.course import Course
from tightwire.kv.control.records import Trial
from tightwire.kv.control.settings import Settings

PIECE = REQUEST.raw_bytes // REQUEST.chunks


def course(trial: Trial | None, rate: float = 1e6, chunks: int = REQUEST.chunks) -> Course:
    controller = Controller(LIBRARY, Settings(explore_share=0.0), FakeClock(), random.Random(1))
    decision = controller.decide(msgspec.structs.replace(REQUEST, chunks=chunks), link(rate))
    return Course(controller, msgspec.structs.replace(decision, trial=trial))


def taken(of: Course, rate: float = 1e6, pieces: int = 5) -> list[str]:
    return [of.next(number * PIECE, 0.0, link(rate)) for number in range(pieces)]


def test_a_trial_has_the_pieces_after_the_first() -> None:
    ten, four = TEN.strategy, FOUR.strategy
    assert taken(course(None)) == [ten] * 5
    assert taken(course(Trial(four, 1))) == [ten, four, ten, ten, ten]
    assert taken(course(Trial(four, 3))) == [ten, four, four, four, ten]
    assert taken(course(Trial(four, 1), chunks=1), pieces=1) == [four]


def test_a_link_that_changed_ends_the_trial() -> None:
    of = course(Trial(FOUR.strategy, 3))
    assert taken(of, pieces=2) == [TEN.strategy, FOUR.strategy]
    assert of.next(2 * PIECE, 0.0, link(1e10)) == "raw"
    assert of.next(3 * PIECE, 0.0, link(1e10)) == "raw"
    assert [each.chosen for each in of.revisions] == [of.decision.chosen] == ["raw"]
    assert of.first.chosen == TEN.strategy
