"""One transfer underway, between the sender and the controller: which strategy its next piece gets."""

from __future__ import annotations

from tightwire.kv.control.controller import Controller
from tightwire.kv.control.records import Decision
from tightwire.net.estimator import LinkEstimate


class Course:
    """`first` is the decision that began it, `decision` the one that holds; `revisions` are those made on the way."""

    def __init__(self, controller: Controller, decision: Decision) -> None:
        self._controller = controller
        self.first = self.decision = decision
        self.revisions: list[Decision] = []
        self._trial = decision.trial
        self._tried = 0

    def next(self, encoded_bytes: int, prefill_s: float, link: LinkEstimate | None) -> str:
        """The strategy of the next piece, after `encoded_bytes` of raw ones and with `prefill_s` of compute left. A
        trial begins with the second piece, if there is one: the others wait for the first."""
        left_bytes = self.first.request.raw_bytes - encoded_bytes
        revised = self._controller.revise(self.decision, left_bytes, prefill_s, link)
        if revised is not None:
            self.revisions.append(revised)
            self.decision, self._trial = revised, None
        trial, request = self._trial, self.first.request
        if trial is not None and self._tried < trial.pieces and (encoded_bytes > 0 or request.chunks <= 1):
            self._tried += 1
            return trial.strategy
        return self.decision.chosen
