"""Training rows: token ids of a fixed length with a loss weight per token.

Random keys and values cannot be predicted and weigh nothing; what can only be known by looking back weighs
`ANSWER`; text weighs one. Positions and distances vary from the first step on, since a fixed offset would
teach position instead of content.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from tightwire.kv.refmodel.tasks import WORDS, Encoder

ANSWER = 3.0
FORM = 0.05
CUE = 4


@dataclass
class Row:
    """`ids` and `weights` of the same length; a weight is that of predicting this very token."""

    ids: list[int]
    weights: list[float]

    def add(self, ids: list[int], weight: float) -> None:
        self.ids += ids
        self.weights += [weight] * len(ids)


class Rows:
    """Makes rows from encoded text (`documents`: one list of ids per source) and a generator."""

    def __init__(self, rng: random.Random, tokenizer: Encoder, documents: list[list[int]], bos: int) -> None:
        self.rng, self.documents, self.bos = rng, documents, bos

        def encode(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False)

        self.words = [encode(f" {word}") for word in WORDS]
        self.numbers = [encode(f" {number:03d}") for number in range(1000)]
        self.key, self.arrow, self.end, self.find = (
            encode(" key"),
            encode(" ->"),
            encode(";"),
            encode(" Find:"),
        )
        self.code, self.is_, self.stop = encode(" The pass code of"), encode(" is"), encode(".")
        self.newline_code = encode("\nThe pass code of")
        self.sources = [len(document) for document in documents]
        self.pool = [token for piece in self.words + self.numbers for token in piece]
        self.vocabulary = max(max(document) for document in documents)

    def make(self, task: str, length: int, symbols: int) -> Row:
        """A row of `length` tokens of `task`: TASKS; `symbols` = how many keys exist."""
        row = Row([self.bos], [0.0])
        if task == "text":
            row.add(self._text(length - 1), 1.0)
        elif task == "copy":
            self._copy(row, length)
        elif task == "lookup":
            self._lookup(row, length, symbols)
        else:
            self._recall(row, length)
        return Row(row.ids[:length], row.weights[:length])

    def _text(self, count: int) -> list[int]:
        document = self.rng.choices(self.documents, weights=[size**0.7 for size in self.sources])[0]
        start = self.rng.randrange(len(document) - count)
        return document[start : start + count]

    def _copy(self, row: Row, length: int) -> None:
        """A segment, then parts of it again, each to be known by its first `CUE` tokens.

        The fewer different tokens the segment has, the more of them a match must agree on at once.
        """
        rng, kind = self.rng, self.rng.random()
        few = rng.sample(self.pool, round(math.exp(rng.uniform(math.log(48), math.log(len(self.pool))))))

        def fresh(count: int) -> list[int]:
            if kind < 0.35:
                return rng.choices(self.pool, k=count)
            if kind < 0.70:
                return rng.choices(few, k=count)
            if kind < 0.85:
                return [rng.randrange(3, self.vocabulary) for _ in range(count)]
            return self._text(count)

        row.add(fresh(max(8, int(length * rng.uniform(0.2, 0.9)))), 0.0)
        seen = len(row.ids)
        while len(row.ids) < length:
            start = rng.randrange(1, seen - CUE)
            part = row.ids[start : min(seen, start + rng.randint(CUE + 1, 24))]
            row.add(part[:CUE], 0.0)
            row.add(part[CUE:], ANSWER)
            if rng.random() < 0.3:
                row.add(fresh(rng.randint(1, 6)), 0.0)

    def _entry(self, row: Row, key: int, word: int, weight: float) -> None:
        row.add(self.key, FORM)
        row.add(self.numbers[key], 0.0)
        row.add(self.arrow, FORM)
        row.add(self.words[word], weight)
        row.add(self.end, FORM)

    def _lookup(self, row: Row, length: int, symbols: int) -> None:
        """Half of the rows: a table, then queries; the others: entries old and new in any order."""
        rng = self.rng
        prose = rng.choice((0, 0, rng.randrange(length // 3)))
        if prose:
            row.add(self._text(prose), 1.0)
        room = (length - len(row.ids)) // 5
        table = max(2, min(symbols, int(room * rng.uniform(0.1, 0.85))))
        keys = rng.sample(range(symbols), table)
        words = {key: rng.randrange(len(self.words)) for key in keys}
        if rng.random() < 0.5:
            for key in keys:
                self._entry(row, key, words[key], 0.0)
            row.add(self.find, FORM)
            while len(row.ids) < length:
                key = rng.choice(keys)
                self._entry(row, key, words[key], ANSWER)
            return
        seen: set[int] = set()
        while len(row.ids) < length:
            key = rng.choice(keys)
            self._entry(row, key, words[key], ANSWER if key in seen else 0.0)
            seen.add(key)

    def _recall(self, row: Row, length: int) -> None:
        """Pass codes between stretches of text, then questions."""
        rng = self.rng
        count = rng.randint(1, max(1, length // 48))
        names = rng.sample(range(len(self.words)), count)
        codes = {name: rng.randrange(1000) for name in names}
        asked = [rng.choice(names) for _ in range(rng.randint(1, 2 + count))]
        room = length - len(row.ids) - 11 * (count + len(asked))
        cuts = sorted(rng.randrange(max(1, room)) for _ in range(count))
        text, last = self._text(max(room, 1)), 0
        for cut, name in zip(cuts, names, strict=True):
            row.add(text[last:cut], 1.0)
            last = cut
            self._fact(row, self.code, name, codes[name], 0.0)
        row.add(text[last:], 1.0)
        for name in asked:
            self._fact(row, self.newline_code, name, codes[name], ANSWER)
        row.add(self._text(length), 1.0)

    def _fact(self, row: Row, head: list[int], name: int, number: int, weight: float) -> None:
        row.add(head, FORM)
        row.add(self.words[name], 0.0)
        row.add(self.is_, FORM)
        row.add(self.numbers[number], weight)
        row.add(self.stop, FORM)
