"""Which strategy for which transfer: the one in the settings or in the request, or the controller's choice."""

from __future__ import annotations

import logging
import threading
import time

from tightwire.core.links import LinkVerdict
from tightwire.errors import LinkError, StrategyError
from tightwire.kv.block import KVBlock
from tightwire.kv.control.controller import Controller
from tightwire.kv.control.course import Course
from tightwire.kv.control.error import strategy_error
from tightwire.kv.control.log import DecisionLog
from tightwire.kv.control.records import Decision, Outcome, Record, Request, Share
from tightwire.kv.control.settings import Settings as ControllerSettings
from tightwire.kv.engines.vllm.plan import Push
from tightwire.kv.engines.vllm.settings import AUTO, Settings
from tightwire.kv.presets import resolve
from tightwire.kv.profiles import ProfileLibrary
from tightwire.kv.strategy import Strategy
from tightwire.kv.transfer.sender import Sender, SendReport

logger = logging.getLogger(f"vllm.{__name__}")
_NEW_WEIGHT = 0.2  # of the newest step
_PROBE_TIMEOUT_S = 2.0


class Fixed:
    """The request's strategy, else that of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._default = resolve(settings.strategy)

    def choose(self, push: Push, raw_bytes: int, pieces: int) -> Strategy:
        if push.options.strategy == AUTO:
            logger.warning("tightwire: %s asks for auto, which needs the setting library", push.transfer_id)
            return self._default
        return asked(push) or self._default

    def revise(self, push: Push, encoded_bytes: int) -> Strategy | None:
        """None: it stays."""
        return None

    def sent(self, push: Push, piece: KVBlock) -> None:
        """Nothing to watch."""

    def learn(self, push: Push, report: SendReport | None) -> None:
        """Nothing to learn."""

    def close(self) -> None:
        """Nothing to close."""


class Auto:
    """The controller over one link: decides when a transfer starts, and again when the link changes under it, learns
    from its report, and watches the quality of what it chose on samples. A request may still ask for a strategy of its
    own. `one_core`: the engine computes on all the cores that the encoder may use. Thread-safe."""

    def __init__(
        self,
        settings: Settings,
        library: ProfileLibrary,
        sender: Sender,
        pace: Pace,
        log: DecisionLog | None,
        one_core: bool = False,
    ) -> None:
        self._one_core = one_core
        self._always = None if settings.strategy == AUTO else resolve(settings.strategy)
        self._controller = Controller(library, ControllerSettings(quality_budget=settings.quality_budget))
        self._sender, self._pace, self._log = sender, pace, log
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}  # by request

    def choose(self, push: Push, raw_bytes: int, pieces: int) -> Strategy:
        """Raises LinkError where the link is said to be dead."""
        fixed = asked(push) or (self._always if push.options.strategy is None else None)
        if fixed is not None:
            return fixed
        options = push.options
        if self._sender.link.estimate() is None:
            self._sender.probe(_PROBE_TIMEOUT_S)
        prefill_s = self._pace.prefill_s(push.total - push.computed) if options.stream else 0.0
        request = Request(
            raw_bytes, pieces, push.total, prefill_s, options.stream, options.workload, options.quality_budget,
            options.slo_s, one_core=self._one_core,
        )  # fmt: skip
        with self._lock:
            decision = self._controller.decide(request, self._sender.link.estimate())
            if not decision.send:
                self._write(decision, None)
                raise LinkError(decision.reason)
            busy = bool(self._open)
            for other in self._open.values():
                other.busy = True
            self._open[push.request_id] = _Open(
                Course(self._controller, decision), busy, self._controller.wants_sample(decision)
            )
        return decision.strategy

    def revise(self, push: Push, encoded_bytes: int) -> Strategy | None:
        """The strategy of the next piece; None where the controller was not asked."""
        with self._lock:
            opened = self._open.get(push.request_id)
            if opened is None:
                return None
            course, known = opened.course, len(opened.course.revisions)
            prefill_s = max(course.first.request.prefill_s - (time.monotonic() - opened.start_s), 0.0)
            name = course.next(encoded_bytes, prefill_s, self._sender.link.estimate())
            for revised in course.revisions[known:]:
                self._write(revised, None)
        return Strategy.parse(name)

    def sent(self, push: Push, piece: KVBlock) -> None:
        """`piece` is on its way: the guard may want to see it."""
        opened = self._open.get(push.request_id)
        if opened is not None and opened.wanted and (opened.piece is None or piece.tokens > opened.piece.tokens):
            opened.piece = piece

    def learn(self, push: Push, report: SendReport | None) -> None:
        """None: the transfer failed."""
        with self._lock:
            opened = self._open.pop(push.request_id, None)
        if opened is None:
            return
        course = opened.course
        names = {Strategy.parse(each.strategy): each.strategy for each in course.first.candidates}
        if report is None or not report.ok:
            outcome = Outcome(0.0, 0.0, 0.0, 0.0, 0, failed=True)
        else:
            outcome = Outcome(
                report.encode_s, report.wire_s, report.decode_s, report.total_s, report.wire_bytes,
                max(report.total_s - report.tail_s, 0.0) if push.options.stream else None, opened.busy,
                shares=[
                    Share(names.get(strategy, str(strategy)), each.raw_bytes, each.wire_bytes, each.encode_s, each.decode_s)
                    for strategy, each in report.shares.items()
                ],
            )  # fmt: skip
        error = None if opened.piece is None else strategy_error(opened.piece, course.decision.strategy)
        with self._lock:
            self._write(course.first, outcome)
            if error is not None:
                self._controller.sampled(course.decision, error)

    def link_verdict(self, verdict: LinkVerdict) -> None:
        """Whoever watches the link says so: the next decisions and those underway go by it."""
        with self._lock:
            self._controller.link_verdict(verdict)
            if verdict.state != "hung":
                self._sender.distrust()

    def close(self) -> None:
        with self._lock:
            if self._log is not None:
                self._log.close()
            self._log = None

    def _write(self, decision: Decision, outcome: Outcome | None) -> None:
        record = Record(decision) if outcome is None else self._controller.observe(decision, outcome)
        if self._log is not None:
            self._log.write(record)


class _Open:
    """A transfer underway. `piece`: what the guard will see of it, if it is `wanted`."""

    def __init__(self, course: Course, busy: bool, wanted: bool) -> None:
        self.course, self.busy, self.wanted, self.start_s = course, busy, wanted, time.monotonic()
        self.piece: KVBlock | None = None


def asked(push: Push) -> Strategy | None:
    """The strategy that the request names; None where it leaves the choice to us, or names none that exists."""
    text = push.options.strategy
    if text is None or text == AUTO:
        return None
    try:
        return resolve(text)
    except StrategyError as error:
        logger.warning("tightwire: %s: %s", push.transfer_id, error)
        return None


class Pace:
    """How long the engine takes for a token of prefill, from the steps that it made. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._s_per_token = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """A step computed `tokens`; steps that only decode say nothing about prefill."""
        if tokens < 16:
            return
        with self._lock:
            weight = _NEW_WEIGHT if self._s_per_token else 1.0
            self._s_per_token += weight * (seconds / tokens - self._s_per_token)

    def prefill_s(self, tokens: int) -> float:
        """0 until a step was seen."""
        with self._lock:
            return tokens * self._s_per_token

