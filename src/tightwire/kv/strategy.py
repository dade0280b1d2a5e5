"""A Strategy: what is done to K and what is done to V.

Grammar (no spaces, safe in a shell):

    strategy = chain [ "/" chain ] [ exact ]  one chain for both, or K's chain / V's chain
    chain    = stage { "+" stage }            transforms, then a quantizer, then a codec; or one lossless stage
    stage    = name [ ":" key "=" value { "," key "=" value } ]
    exact    = "@" key "=" number { "," key "=" number }     what is sent as it is: layers, tokens

`hadamard+uniform:levels=16,axis=group,group=64+pack` or `uniform:levels=12,axis=channel+zstd/uniform:levels=6+zstd`
or `uniform:levels=4,axis=channel+pack/uniform:levels=4,axis=token+pack@first=1,last=1,sinks=4,recent=128`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from itertools import product
from typing import Any, get_args, get_type_hints

from tightwire.errors import ConfigError, StrategyError
from tightwire.kv.block import KVBlock
from tightwire.kv.stages import STAGES
from tightwire.kv.stages.base import Codec, Correction, Lossless, Quantizer, Stage, Transform, require_range

MAX_TEXT = 1024


@dataclass(frozen=True)
class Chain:
    """Stages in the order of encoding: transforms and corrections, a quantizer, a codec; or one lossless stage."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        kind = "floats"
        for stage in self.stages:
            if stage.takes != kind:
                raise ConfigError(f"{stage.name} takes {stage.takes}, but {kind} arrive there")
            kind = stage.gives
        if kind != "bytes":
            raise ConfigError(f"the chain ends in {kind}; it must end in bytes: add {_names(kind)}")

    @property
    def quantizer(self) -> Quantizer | None:
        return next((stage for stage in self.stages if isinstance(stage, Quantizer)), None)

    @property
    def last(self) -> Codec | Lossless:
        stage = self.stages[-1]
        assert isinstance(stage, Codec | Lossless)
        return stage

    def __str__(self) -> str:
        return "+".join(map(str, self.stages))

    @property
    def short(self) -> str:
        return "+".join(stage.short for stage in self.stages)


@dataclass(frozen=True)
class Exact:
    """What is sent as it is: the `first` and `last` layers of the model, and of the other layers the first tokens of
    the request (`sinks`, arXiv 2309.17453) and its most `recent` ones."""

    first: int = 0
    last: int = 0
    sinks: int = 0
    recent: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            require_range(f"exact: {field.name}", getattr(self, field.name), 0, 2**20)

    def within(self, block: KVBlock) -> tuple[tuple[int, int], tuple[int, int]]:
        """How many first and last layers, and first and last tokens, of `block` are exact."""
        return (
            _ends(block.layer_start, block.layers, block.total_layers, self.first, self.last),
            _ends(block.token_start, block.tokens, block.total_tokens, self.sinks, self.recent),
        )

    def __str__(self) -> str:
        shown = [f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name)]
        return "@" + ",".join(shown) if shown else ""


def _ends(start: int, size: int, total: int, first: int, last: int) -> tuple[int, int]:
    """Of the positions start … start+size, how many at the beginning are below `first`, and how many at the end are
    among the `last` of `total` (0: the block ends where the whole ends)."""
    head = min(max(first - start, 0), size)
    tail = min(max(start + size - (max(total, start + size) - last), 0), size - head)
    return head, tail


@dataclass(frozen=True)
class Strategy:
    """What is done to K and to V. `str()` gives the canonical text, which `parse` reads back to an equal object."""

    k: Chain
    v: Chain
    exact: Exact = Exact()

    @classmethod
    def parse(cls, text: str) -> Strategy:
        """Raises StrategyError that shows where the text is wrong and what is allowed there."""
        return _parse(text)

    @property
    def is_raw(self) -> bool:
        """Whether K and V cross the wire unchanged."""
        return self == RAW

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        """Every frame has it."""
        return (str(self.k) if self.k == self.v else f"{self.k}/{self.v}") + str(self.exact)

    @property
    def short(self) -> str:
        """The text without the settings that are at their defaults; `parse` reads it back to an equal object."""
        return (self.k.short if self.k == self.v else f"{self.k.short}/{self.v.short}") + str(self.exact)

    def to_json(self) -> dict[str, Any]:
        """`{"k": [{"stage": name, …settings}], "v": […], "exact": {"first": 0, …}}`"""
        sides = {side: [_stage_json(stage) for stage in chain.stages] for side, chain in (("k", self.k), ("v", self.v))}
        return {**sides, "exact": asdict(self.exact)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Strategy:
        """The inverse of `to_json`; raises ConfigError that names the key."""
        if not isinstance(data, dict) or not {"k", "v"} <= set(data) <= {"k", "v", "exact"}:
            raise ConfigError(f"a strategy in JSON has the keys k, v and exact, got {sorted(data)}")
        exact = data.get("exact", {})
        allowed = {field.name for field in fields(Exact)}
        if not isinstance(exact, dict) or not set(exact) <= allowed or any(type(v) is not int for v in exact.values()):
            raise ConfigError(f"exact={exact!r}: give whole numbers for {', '.join(sorted(allowed))}")
        k, v = (Chain(tuple(_stage_from_json(item) for item in data[side])) for side in ("k", "v"))
        return cls(k, v, Exact(**exact))


@lru_cache(maxsize=1024)
def _parse(text: str) -> Strategy:  # cached: a receiver reads the same text in every frame
    return _Parser(text).strategy()


def enumerate_chains() -> Iterator[Chain]:
    """Every valid chain of at most one transform or correction over all registered stages, in their `variants`."""
    lossless, quantizers, codecs = (_variants(kind) for kind in (Lossless, Quantizer, Codec))
    transforms = _variants(Transform) + _variants(Correction)
    for stage in lossless:
        yield Chain((stage,))
    starts: list[tuple[Stage, ...]] = [(), *((stage,) for stage in transforms)]
    for start, quantizer, codec in product(starts, quantizers, codecs):
        yield Chain((*start, quantizer, codec))


class _Parser:
    """Recursive descent over the grammar above; every error knows its position."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_TEXT:
            raise StrategyError(f"the strategy has {len(text)} characters; the limit is {MAX_TEXT}")
        self.text, self.at = text, 0

    def strategy(self) -> Strategy:
        first = self.chain()
        second = first
        if self.peek() == "/":
            self.at += 1
            second = self.chain()
        exact = self.exact() if self.peek() == "@" else Exact()
        if self.at < len(self.text):
            raise self.error(f"unexpected {self.peek()!r}", ("end of text", "+", "/", "@"))
        return Strategy(first, second, exact)

    def exact(self) -> Exact:
        start = self.at
        settings = self.settings("exact", Exact)
        try:
            return Exact(**settings)
        except ConfigError as error:
            self.at = start
            raise self.error(str(error)) from error

    def chain(self) -> Chain:
        stages: list[Stage] = []
        kind = "floats"
        while True:
            start = self.at
            stage = self.stage(kind)
            if stage.takes != kind:
                self.at = start
                raise self.error(f"{stage.name!r} takes {stage.takes}, but {kind} arrive there", _names(kind))
            stages.append(stage)
            kind = stage.gives
            if kind == "bytes":
                return Chain(tuple(stages))
            if self.peek() != "+":
                hint = tuple(f"+{name}" for name in _names(kind))
                raise self.error(f"the chain ends in {kind}; it must end in bytes", hint)
            self.at += 1

    def stage(self, kind: str) -> Stage:
        start, name = self.at, self.word()
        if name not in STAGES:
            self.at = start
            raise self.error(f"unknown stage {name!r}" if name else "a stage is missing", _names(kind))
        cls = STAGES[name]
        settings = self.settings(name, cls) if self.peek() == ":" else {}
        try:
            return cls(**settings)
        except ConfigError as error:
            self.at = start
            raise self.error(str(error)) from error

    def settings(self, name: str, cls: type[Stage] | type[Exact]) -> dict[str, Any]:
        """What follows the mark that stands here."""
        found: dict[str, Any] = {}
        while not found or self.peek() == ",":
            self.at += 1
            key, value = self.setting(name, cls)
            if key in found:
                raise self.error(f"{key!r} is given twice")
            found[key] = value
        return found

    def setting(self, name: str, cls: type[Stage] | type[Exact]) -> tuple[str, Any]:
        start, key = self.at, self.word()
        hints = get_type_hints(cls)
        allowed = tuple(field.name for field in fields(cls))
        if key not in allowed or self.peek() != "=":
            self.at = start
            message = f"{name!r} has no setting {key!r}" if key not in allowed else f"{key!r} needs =value"
            raise self.error(message, tuple(f"{setting}=" for setting in allowed) or ("+",))
        self.at += 1
        at, word = self.at, self.word()
        choices = get_args(hints[key])
        if word in choices or (hints[key] is str and word):
            return key, word
        if hints[key] is int and word.isascii() and word.isdigit() and len(word) <= 10:
            return key, int(word)
        self.at = at
        expected = choices or ("a table's name" if hints[key] is str else "a whole number",)
        raise self.error(f"{key}={word!r} is not understood", expected)

    def word(self) -> str:
        start = self.at
        while self.peek() and (self.peek().isalnum() or self.peek() in "_-."):
            self.at += 1
        return self.text[start : self.at]

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def error(self, message: str, allowed: tuple[str, ...] = ()) -> StrategyError:
        return StrategyError(f"{message} at position {self.at}", self.text, self.at, allowed)


def _variants(kind: type[Stage]) -> list[Stage]:
    return [stage for name in STAGES.names() if issubclass(STAGES[name], kind) for stage in STAGES[name].variants()]


def _names(kind: str) -> tuple[str, ...]:
    return tuple(name for name in STAGES.names() if STAGES[name].takes == kind)


def _stage_json(stage: Stage) -> dict[str, Any]:
    return {"stage": stage.name, **{field.name: getattr(stage, field.name) for field in fields(stage)}}


def _stage_from_json(item: Any) -> Stage:
    if not isinstance(item, dict) or not isinstance(item.get("stage"), str):
        raise ConfigError(f'a stage in JSON is {{"stage": name, …settings}}, got {item!r}')
    cls = STAGES[item["stage"]]
    settings = {key: value for key, value in item.items() if key != "stage"}
    for key, value in settings.items():
        if key not in {field.name for field in fields(cls)} or isinstance(value, bool):
            raise ConfigError(f"{cls.name}: {key}={value!r} is no setting of this stage")
        if not isinstance(value, int if get_type_hints(cls)[key] is int else str):
            raise ConfigError(f"{cls.name}: {key}={value!r} has the wrong type")
    return cls(**settings)


RAW = Strategy(Chain((STAGES["raw"](),)), Chain((STAGES["raw"](),)))
