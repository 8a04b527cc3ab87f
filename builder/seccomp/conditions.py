"""Conditions on a call's arguments: their grammar, and what is left of one less another.

A line is conditions that must hold together; a call with several lines is allowed where any one holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

ARGUMENTS = tuple(f"arg{index}" for index in range(6))
"""What each call's arguments are called where the catalog has no better names."""

_INT_BITS = 0xFFFF_FFFF
_ALL_BITS = 0xFFFF_FFFF_FFFF_FFFF
_TERM = re.compile(r"\s*(?P<argument>\w+)(?:\s*&\s*(?P<mask>\w+))?\s*==\s*(?P<value>\w+)\s*", re.ASCII)
_GRAMMAR = "write `argument == value` or `argument & mask == value`, several of them with ` and ` between"


class ConditionError(ValueError):
    """A text is no condition, or says nothing; with a hint."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


@dataclass(frozen=True)
class Condition:
    """One argument, under a mask, has one value."""

    argument: int
    """Which of the six, from 0."""
    mask: int
    value: int

    def holds(self, arguments: Sequence[int]) -> bool:
        """Whether a call with these arguments (64 bits each) meets the condition."""
        return arguments[self.argument] & self.mask == self.value


@dataclass(frozen=True)
class Line:
    """Conditions that must hold together, at most one for each argument, in the arguments' order."""

    text: str
    conditions: tuple[Condition, ...]

    def holds(self, arguments: Sequence[int]) -> bool:
        """Whether a call with these arguments (64 bits each) meets all of them."""
        return all(condition.holds(arguments) for condition in self.conditions)


def parse_line(text: str, name: str, arguments: Sequence[str], constants: Mapping[str, int]) -> Line:
    """The line `text` for the call `name`, whose arguments have these names; ConditionError for no line."""
    terms = [_condition(term, name, arguments, constants) for term in re.split(r"\s+and\s+", text)]
    conditions = _joined(terms)
    if conditions is None:
        raise ConditionError(f"{quoted(text)} can never hold", "its parts contradict each other")
    return Line(" ".join(text.split()), conditions)


def without(line: Line, taken: Line, arguments: Sequence[str] = ()) -> tuple[Line, ...]:
    """Where `line` holds and `taken` does not: lines of which no two hold at once.

    Bit by bit: where `taken` has a value for a bit that `line` leaves open, one piece has the other value for
    it, and the same as `taken` for the bits before. The highest bit comes first: values that share their
    high bits, as requests and options do, then share most of their pieces.
    """
    fixed = {one.argument: (one.mask, one.value) for one in line.conditions}
    pieces = []
    for one in taken.conditions:
        mask, value = fixed.get(one.argument, (0, 0))
        if (value ^ one.value) & mask & one.mask:
            return (line,)
        for bit in _bits(one.mask & ~mask):
            mask |= bit
            other = {**fixed, one.argument: (mask, value | (~one.value & bit))}
            pieces.append(_line(other, arguments))
            value |= one.value & bit
            fixed[one.argument] = (mask, value)
    return tuple(pieces)


def meet(one: Line, other: Line) -> bool:
    """Whether there are arguments for which both lines hold."""
    return _joined((*one.conditions, *other.conditions)) is not None


def covers(one: Line, other: Line) -> bool:
    """Whether `one` holds wherever `other` does."""
    return not without(other, one)


def close_to(name: str, candidates: Iterable[str]) -> str | None:
    """The question for a misspelt name: did you mean the candidate that is most like it?"""
    candidates = sorted(candidates)
    by_folded = {candidate.lower(): candidate for candidate in candidates}
    close = get_close_matches(name.lower(), by_folded, n=1, cutoff=0.7)
    return f'did you mean "{by_folded[close[0]]}"?' if close else None


def quoted(text: str) -> str:
    """`text` for a message: in quotes, printable whatever it holds, and short."""
    return '"' + text.encode("unicode_escape").decode().replace('"', '\\"')[:80] + '"'


def _condition(term: str, name: str, arguments: Sequence[str], constants: Mapping[str, int]) -> Condition:
    match = _TERM.fullmatch(term)
    if match is None:
        raise ConditionError(f"{quoted(term)} is not a condition", _GRAMMAR)
    if match["argument"] in arguments:
        argument = arguments.index(match["argument"])
    elif match["argument"] in ARGUMENTS:
        argument = ARGUMENTS.index(match["argument"])
    else:
        theirs = f"{', '.join(arguments)}, or " if arguments else ""
        raise ConditionError(
            f"{name} has no argument {quoted(match['argument'])}",
            close_to(match["argument"], arguments) or f"its arguments are {theirs}arg0 to arg5",
        )
    # An int is compared by its low half: the kernel reads no more, and the high half may hold anything.
    mask = _ALL_BITS if match["value"] == "NULL" else _INT_BITS
    if match["mask"]:
        mask = _number(match["mask"], constants)
    value = _number(match["value"], constants)
    if value & ~mask:
        hint = f"the value has bits outside of the mask {mask:#x}"
        if not match["mask"]:
            hint = f"only the low 32 bits are compared: write `{match['argument']} & {_ALL_BITS:#x} == ...`"
        raise ConditionError(f"{quoted(term)} can never hold", hint)
    if mask == 0:
        raise ConditionError(f"{quoted(term)} compares no bit", "name the call without `when` to mean always")
    return Condition(argument, mask, value)


def _number(word: str, constants: Mapping[str, int]) -> int:
    if word in constants:
        return constants[word]
    try:
        number = int(word, 0)
    except ValueError:
        if word[0].isdecimal():
            hint = "write it in decimal, or in hexadecimal with 0x before it"
            raise ConditionError(f"{quoted(word)} is not a number", hint) from None
        hint = "write the number, or a constant out of images/python/seccomp.yaml"
        raise ConditionError(f"no constant named {quoted(word)}", close_to(word, constants) or hint) from None
    if number > _ALL_BITS:
        raise ConditionError(f"{quoted(word)} is longer than an argument", "an argument has 64 bits")
    return number


def _joined(conditions: Iterable[Condition]) -> tuple[Condition, ...] | None:
    """The same with one condition for each argument (libseccomp takes no more); None if they contradict."""
    fixed: dict[int, tuple[int, int]] = {}
    for one in conditions:
        mask, value = fixed.get(one.argument, (0, 0))
        if (value ^ one.value) & mask & one.mask:
            return None
        fixed[one.argument] = (mask | one.mask, value | one.value)
    return tuple(Condition(argument, *fixed[argument]) for argument in sorted(fixed))


def _line(fixed: Mapping[int, tuple[int, int]], arguments: Sequence[str]) -> Line:
    conditions = tuple(Condition(argument, *fixed[argument]) for argument in sorted(fixed))
    return Line(" and ".join(_text(one, arguments) for one in conditions), conditions)


def _text(one: Condition, arguments: Sequence[str]) -> str:
    named = one.argument < len(arguments)
    name = arguments[one.argument] if named else ARGUMENTS[one.argument]
    return (
        f"{name} == {one.value:#x}" if one.mask == _INT_BITS else f"{name} & {one.mask:#x} == {one.value:#x}"
    )


def _bits(mask: int) -> Iterator[int]:
    """The bits of `mask`, the highest first."""
    return (1 << index for index in reversed(range(mask.bit_length())) if mask >> index & 1)
