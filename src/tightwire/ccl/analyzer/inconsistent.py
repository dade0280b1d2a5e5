"""H2, inconsistent: the ranks of a group entered one round, but with another operation, size, dtype or root.

The minority is guilty. Where there is none (two ranks, or two halves), the one is that left the pattern of its own
earlier calls; where that does not tell either, nobody is named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from tightwire.ccl.kinds import OWN_SIZE
from tightwire.ccl.rounds import Round, Rounds, Signature, dtype_name
from tightwire.ccl.summary import GroupFacts
from tightwire.core.events import OPERATION_CODES, operation

SETTLE_S = 1.0  # for the rest of the group to come
DOUBT_S = 8.0  # before saying that nobody can be named
PATTERN = 256  # earlier rounds looked through for the pattern
_MAY_DIFFER = {OPERATION_CODES[name] for name in ("allgather", "reduce_scatter", "allgather_coalesced")}

Key = tuple[object, ...]


@dataclass(frozen=True)
class Inconsistency:
    """`guilty` called `found` where `others` called `expected`; they differ in `field`. Nobody is guilty when it cannot be
    told which of the two is right."""

    round: Round
    guilty: tuple[int, ...]
    others: tuple[int, ...]
    found: Signature
    expected: Signature
    field: str
    since_s: float


def camps(round: Round, facts: GroupFacts | None, strict: bool) -> list[tuple[int, ...]]:
    """The ranks that entered, by what they called, the largest camp first; `strict` also compares sizes that may differ
    in a call that gets through."""
    pair = facts is not None and facts.point_to_point
    by_key: dict[Key, list[int]] = defaultdict(list)
    for rank, signature in round.called.items():
        by_key[_key(signature, pair, strict)].append(rank)
    return sorted((tuple(sorted(ranks)) for ranks in by_key.values()), key=lambda ranks: (-len(ranks), ranks))


def find(
    round: Round, rounds: Rounds, facts: GroupFacts | None, gone: Collection[int], now_s: float
) -> Inconsistency | None:
    """None while all is well or while it is too early to tell."""
    stuck = len(round.ended_s) < len(round.called) and now_s - max(round.entered_s.values()) >= DOUBT_S
    found = camps(round, facts, strict=stuck or bool(round.failed))
    if len(found) < 2:
        return None
    since_s = sorted(round.entered_s[ranks[0]] for ranks in found)[1]
    members = facts.ranks if facts is not None else []
    complete = set(members) <= set(round.called) if members else False
    if not complete and not round.failed and not set(members) & set(gone) and now_s - since_s < SETTLE_S:
        return None
    right = found[0] if 2 * len(found[0]) > len(round.called) else _by_pattern(found, round, rounds, facts)
    if right is None and now_s - since_s < DOUBT_S and not gone:
        return None
    guilty = tuple(sorted(rank for ranks in found if ranks != right for rank in ranks)) if right is not None else ()
    others = right if right is not None else found[0]
    wrong = guilty[0] if guilty else found[1][0]
    one, other = round.called[wrong], round.called[others[0]]
    return Inconsistency(round, guilty, others, one, other, _field(round, rounds, wrong, others[0]), since_s)


def _key(signature: Signature, pair: bool, strict: bool) -> Key:
    if pair:  # one sends, one receives, and may offer more room than is sent
        return (signature.size_bytes, signature.dtype) if strict else ()
    sized = signature.op not in OWN_SIZE and (strict or signature.op not in _MAY_DIFFER)
    size: Key = (signature.size_bytes, signature.dtype) if sized else ()
    return (signature.op, signature.partner, *size)


def _by_pattern(
    found: list[tuple[int, ...]], round: Round, rounds: Rounds, facts: GroupFacts | None
) -> tuple[int, ...] | None:
    """The one camp that called what followed the last time that its ranks had called the same two before."""
    usual = [ranks for ranks in found if _as_usual(ranks[0], round, rounds, facts)]
    return usual[0] if len(usual) == 1 else None


def _as_usual(rank: int, round: Round, rounds: Rounds, facts: GroupFacts | None) -> bool:
    pair = facts is not None and facts.point_to_point
    history = rounds.history(rounds.slots.number[round.group], rank)
    past: list[Key] = []
    while len(past) < PATTERN and round.sequence - 1 - len(past) in history:
        past.append(_key(history[round.sequence - 1 - len(past)], pair, True))
    now = _key(round.called[rank], pair, True)
    for length in (2, 1):
        context = past[:length]
        for back in range(1, len(past) - length + 1):
            if past[back : back + length] == context:
                return past[back - 1] == now
    return False


def _field(round: Round, rounds: Rounds, wrong: int, right: int) -> str:
    """What differs; `order` when the call is one that the others make too, only at another time."""
    one, other = round.called[wrong], round.called[right]
    beside = rounds.history(rounds.slots.number[round.group], right)
    if any(
        round.sequence - PATTERN < sequence <= round.sequence + 1 and call == one for sequence, call in beside.items()
    ):
        return "order"
    if one.op != other.op:
        return "operation"
    if one.partner != other.partner:
        return "root"
    return "size" if one.size_bytes != other.size_bytes else "dtype"


def value(field: str, signature: Signature) -> str:
    """What `signature` has in `field`, in words."""
    if field == "root":
        return f"root {signature.partner}"
    if field == "size":
        return f"{signature.size_bytes} bytes"
    if field == "dtype":
        return dtype_name(signature.dtype)
    return operation(signature.op) if field == "operation" else str(signature)
