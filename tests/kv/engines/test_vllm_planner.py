"""The scheduler's half without vLLM: what it plans for requests in every order of events."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightwire.errors import ConfigError
from tightwire.kv.engines.vllm import planner as module
from tightwire.kv.engines.vllm.plan import PUSH_TOKENS, Options, Plan
from tightwire.kv.engines.vllm.planner import Planner, transfer_name
from tightwire.kv.engines.vllm.settings import Settings

BLOCK = 32
PUSHES = Settings("kv_producer", endpoint="tcp://x:1")
PULLS = Settings("kv_consumer")
SHARES = Settings("kv_both", store="memory://")


def request(name: str = "r", tokens: int = 300, params: dict[str, Any] | None = None, **more: Any) -> SimpleNamespace:
    fields = {"lora_request": None, "mm_features": [], "cache_salt": None, **more}
    return SimpleNamespace(request_id=name, prompt_token_ids=list(range(tokens)), kv_transfer_params=params, **fields)


def step(scheduled: dict[str, tuple[int, int, list[int]]], new: set[str] = frozenset(), resumed: set[str] = frozenset()) -> Any:  # type: ignore[assignment]  # fmt: skip
    """`scheduled`: request to (tokens already computed, tokens of this step, new block ids)."""
    names = [name for name in scheduled if name not in new]
    return SimpleNamespace(
        total_num_scheduled_tokens=sum(count for _, count, _ in scheduled.values()),
        num_scheduled_tokens={name: count for name, (_, count, _) in scheduled.items()},
        scheduled_new_reqs=[
            SimpleNamespace(req_id=name, block_ids=(scheduled[name][2],), num_computed_tokens=scheduled[name][0])
            for name in new
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=names, new_block_ids=[(scheduled[name][2],) if scheduled[name][2] else None for name in names],
            num_computed_tokens=[scheduled[name][0] for name in names], resumed_req_ids=resumed,
        ),
    )  # fmt: skip


def spans(plan: Plan) -> list[tuple[int, int]]:
    return [(push.start, push.stop) for push in plan.pushes]


@given(st.integers(2, 900), st.lists(st.integers(1, 300), min_size=1), st.integers(0, 500), st.data())
def test_every_token_but_the_last_is_pushed_once_and_in_order(
    tokens: int, chunks: list[int], hit: int, data: st.DataObject
) -> None:
    """Whatever the chunks, a hit in vLLM's own prefix cache at the start, and a preemption in the middle."""
    planner = Planner(PUSHES)
    asked = request(tokens=tokens, params={})
    assert planner.matched(asked, 0) == 0
    computed, first, pushed, preempted = min(hit, tokens - 1) // BLOCK * BLOCK, True, 0, False
    blocks = list(range(-(-tokens // BLOCK)))
    while computed < tokens:
        count = min(chunks[computed % len(chunks)], tokens - computed)
        output = step({"r": (computed, count, blocks if first else [])}, {"r"} if first and not preempted else set(),
                      {"r"} if first and preempted else set())  # fmt: skip
        for push in planner.plan(output).pushes:
            assert push.start == pushed
            assert push.stop <= computed + count
            assert push.stop % PUSH_TOKENS == 0 or push.last
            assert push.block_ids == tuple(blocks)
            pushed = push.stop
        computed, first = computed + count, False
        if not preempted and computed < tokens and data.draw(st.booleans()):
            blocks = [block + 100 for block in blocks]
            computed, first, preempted = 0, True, True
    assert pushed == tokens - 1
    planner.finished("r")
    assert planner.plan(step({})).cancels == []


def test_without_streaming_everything_is_pushed_at_the_end() -> None:
    planner = Planner(PUSHES)
    planner.matched(request(params={"stream": False}), 0)
    assert spans(planner.plan(step({"r": (0, 200, list(range(10)))}, {"r"}))) == []
    assert spans(planner.plan(step({"r": (200, 100, [])}))) == [(0, 299)]


def test_a_request_that_ends_early_is_given_up() -> None:
    planner = Planner(PUSHES)
    planner.matched(request(params={}), 0)
    planner.plan(step({"r": (0, 200, list(range(10)))}, {"r"}))
    planner.finished("r")
    assert planner.plan(step({})).cancels == ["r"]
    assert planner.plan(step({})).cancels == []


def test_requests_without_parameters_take_no_part() -> None:
    for settings in (PUSHES, PULLS):
        planner = Planner(settings)
        assert planner.matched(request(), 0) == 0
        plan = planner.plan(step({"r": (0, 300, list(range(10)))}, {"r"}))
        assert plan == Plan(scheduled=300)
        planner.finished("r")


def test_only_what_is_missing_is_pulled_and_only_once() -> None:
    planner = Planner(PULLS)
    asked = request(params={"transfer_id": "a"})
    assert planner.matched(asked, 64) == 299 - 64
    planner.allocated(asked, list(range(10)), 299 - 64)
    (move,) = planner.plan(step({})).pulls
    assert (move.start, move.stop, move.block_ids) == (64, 299, tuple(range(10)))
    assert move.transfer_id == transfer_name({"transfer_id": "a"}, asked.prompt_token_ids)
    assert planner.matched(asked, 0) == 0  # after a failure or a preemption: computed
    planner.finished("r")
    assert planner.plan(step({})).cancels == ["r"]  # it is still loading


def test_a_load_that_is_over_is_not_given_up() -> None:
    planner = Planner(PULLS)
    asked = request(params={})
    planner.allocated(asked, [0], planner.matched(asked, 0) or 0)
    planner.plan(step({}))
    planner.loaded({"r"})
    planner.finished("r")
    assert planner.plan(step({})).cancels == []


@pytest.mark.parametrize(
    ("found", "computed", "expected"), [(0, 0, 0), (256, 0, 256), (256, 128, 128), (128, 128, 0), (128, 256, 0)]
)
def test_the_store_is_asked_by_an_engine_that_computes_without_waiting(found: int, computed: int, expected: int) -> None:
    answer: Future[int] = Future()
    planner = Planner(SHARES, lambda tokens: answer, 128)
    planner.plan(step({"other": (0, 300, [1])}, {"other"}))
    asked = request()
    assert planner.matched(asked, computed) is None
    answer.set_result(found)
    assert planner.matched(asked, computed) == expected
    planner.allocated(asked, list(range(10)), expected)
    plan = planner.plan(step({}))
    assert [(f.start, f.stop, len(f.tokens)) for f in plan.fetches] == ([(computed, found, found)] if expected else [])
    start = max(computed, found)
    plan = planner.plan(step({"r": (start, 300 - start, list(range(10)))}, {"r"}))
    assert [(s.start, s.stop, len(s.tokens)) for s in plan.saves] == [(found, 296, 296)]


def test_an_engine_with_nothing_to_compute_waits_for_the_store_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def wait(futures: list[Future[int]], timeout_s: float) -> SimpleNamespace:
        waited.append(timeout_s)
        return SimpleNamespace(done={future for future in futures if future.done()})

    monkeypatch.setattr(module, "wait", wait)
    planner = Planner(SHARES, lambda tokens: Future(), 128)
    for name in "abc":
        assert planner.matched(request(name), 0) is None
    assert waited == [module.LOOKUP_WAIT_S]
    planner.plan(step({}))
    assert planner.matched(request("a"), 0) is None
    assert len(waited) == 2
    planner.plan(step({"d": (0, 300, [1])}, {"d"}))
    assert planner.matched(request("a"), 0) is None
    assert len(waited) == 2  # it computes d
    planner.finished("d")
    assert planner.matched(request("a"), 0) is None
    assert len(waited) == 3


def test_an_answer_that_comes_soon_needs_no_second_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(futures: list[Future[int]], timeout_s: float) -> SimpleNamespace:
        futures[0].set_result(256)
        return SimpleNamespace(done=set(futures))

    monkeypatch.setattr(module, "wait", wait)
    assert Planner(SHARES, lambda tokens: Future(), 128).matched(request(), 0) == 256


def saves(found: int, length: int, steps: list[int]) -> list[tuple[int, int]]:
    """Which tokens of a prompt are saved, of which the store has the first `found`, when it is computed up to `steps`."""
    answer: Future[int] = Future()
    answer.set_result(found)
    planner, made, done = Planner(SHARES, lambda tokens: answer, 128), [], found
    asked = request(tokens=length)
    planner.allocated(asked, list(range(20)), planner.matched(asked, 0) or 0)
    planner.plan(step({}))
    for number, reached in enumerate(steps):
        blocks = list(range(20)) if number == 0 else []
        plan = planner.plan(step({"r": (done, reached - done, blocks)}, {"r"} if number == 0 else set()))
        made += [(save.start, save.stop) for save in plan.saves]
        done = reached
    return made


def test_the_tail_is_saved_with_the_end_of_the_prompt() -> None:
    assert saves(0, 300, [100, 200, 300]) == [(0, 128), (128, 296)]
    assert saves(0, 256, [256]) == [(0, 256)]
    assert saves(0, 260, [260]) == [(0, 256)]  # 4 tokens are no tail


def test_what_came_from_a_tail_is_saved_once_more_at_most() -> None:
    assert saves(288, 400, [400]) == [(256, 400)]  # its chunk is whole now, and the new tail holds nothing old
    assert saves(288, 340, [340]) == []  # the same chunk goes on: its beginning would be quantised in every turn
    assert saves(288, 384, [384]) == [(256, 384)]


def test_a_prompt_that_is_stored_whole_still_computes_its_last_token() -> None:
    answer: Future[int] = Future()
    answer.set_result(256)
    planner = Planner(SHARES, lambda tokens: answer, 128)
    asked = request(tokens=256)
    assert planner.matched(asked, 0) == 255
    planner.allocated(asked, list(range(8)), 255)
    (fetch,) = planner.plan(step({})).fetches
    assert (fetch.start, fetch.stop, len(fetch.tokens)) == (0, 255, 256)


@pytest.mark.parametrize("more", [{"lora_request": object()}, {"mm_features": [1]}, {"cache_salt": "x"}])
def test_kv_that_depends_on_more_than_tokens_is_not_stored(more: dict[str, Any]) -> None:
    planner = Planner(SHARES, lambda tokens: pytest.fail("asked"), 128)
    assert planner.matched(request(**more), 0) == 0


def test_an_id_used_for_two_prompts_names_two_transfers() -> None:
    names = {transfer_name({"transfer_id": "a"}, [1, 2, 3]), transfer_name({"transfer_id": "a"}, [1, 2, 4])}
    names |= {transfer_name({"transfer_id": "x" * 200}, [1, 2, 3]), transfer_name({}, [1, 2, 4])}
    assert len(names) == 4
    assert all(len(name) <= 256 for name in names)


def test_options() -> None:
    assert Options.parse({"transfer_id": "a", "other": 1}) == Options()
    assert Options.parse({"strategy": "auto", "slo_s": 1, "stream": False}) == Options(
        None, "auto", None, 1, None, False
    )
    for wrong in ({"strategy": 1}, {"quality_budget": True}, {"stream": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Options.parse(wrong)


@pytest.mark.parametrize(
    ("role", "extra", "message"),
    [
        ("kv_other", {}, "kv_role='kv_other'"),
        ("kv_producer", {}, "endpoint is missing"),
        ("kv_both", {}, "store is missing"),
        ("kv_consumer", {"endpoint": "tcp://a:1"}, "unknown key 'endpoint' for kv_consumer"),
        ("kv_consumer", {"timeout_s": 0}, "timeout_s=0"),
        ("kv_consumer", {"timeout_s": float("nan")}, "timeout_s=nan"),
        ("kv_consumer", {"insecure": 1}, "insecure=1 must be true or false"),
        ("kv_both", {"store": "memory://", "store_chunk_tokens": 1.5}, "store_chunk_tokens=1.5"),
        ("kv_producer", {"endpoint": "tcp://a:1", "strategy": "auto"}, "needs library"),
        ("kv_producer", {"endpoint": "tcp://a:1", "strategy": "hadamard"}, "hadamard"),
    ],
)
def test_settings_that_are_wrong_are_named(role: str, extra: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message.replace("(", r"\(")):
        Settings.parse(extra, role)
