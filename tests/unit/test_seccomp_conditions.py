"""The grammar of conditions, and what is left of one less another."""

import itertools
import random

import pytest

from builder.seccomp.conditions import (
    Condition,
    ConditionError,
    Line,
    covers,
    meet,
    parse_line,
    without,
)

NAMES = ("fd", "request")
CONSTANTS = {"NULL": 0, "TCGETS": 0x5401, "MASK": 0xF0}
INT, ALL = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF


def line(text: str) -> Line:
    return parse_line(text, "ioctl", NAMES, CONSTANTS)


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("request == TCGETS", [(1, INT, 0x5401)]),
        ("request==0x5401", [(1, INT, 0x5401)]),
        ("  request  &  MASK  ==  0x10 ", [(1, 0xF0, 0x10)]),
        ("arg1 == 21505 and arg5 == NULL", [(1, INT, 0x5401), (5, ALL, 0)]),
        ("arg5 == 1 and fd == 0", [(0, INT, 0), (5, INT, 1)]),
        ("fd & 0xffffffffffffffff == 0x100000000", [(0, ALL, 1 << 32)]),
        # One condition for each argument: libseccomp takes no second one.
        ("fd & 1 == 1 and fd & 6 == 2", [(0, 7, 3)]),
        ("fd & 3 == 1 and fd & 6 == 0", [(0, 7, 1)]),
    ],
)
def test_a_condition_is_read(text: str, conditions: list[tuple[int, int, int]]) -> None:
    """Names of the catalog or arg0 to arg5, numbers or constants, a mask or the low 32 bits."""
    read = line(text)
    assert [(one.argument, one.mask, one.value) for one in read.conditions] == conditions
    assert read.text == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("request > 1", '"request > 1" is not a condition', "write `argument == value`"),
        ("", '"" is not a condition', "write `argument == value`"),
        ("fd == -1", '"fd == -1" is not a condition', "write"),
        ("fd == 1 or fd == 2", '"fd == 1 or fd == 2" is not a condition', "write"),
        ("fd == 1 and", '"fd == 1 and" is not a condition', "write"),
        ("\x1b[31m", '"\\x1b[31m" is not a condition', "write"),
        ("requst == 1", 'ioctl has no argument "requst"', 'did you mean "request"?'),
        ("cmd == 1", 'ioctl has no argument "cmd"', "its arguments are fd, request, or arg0 to arg5"),
        ("arg6 == 1", 'ioctl has no argument "arg6"', "its arguments are"),
        ("request == TCGET", 'no constant named "TCGET"', 'did you mean "TCGETS"?'),
        ("request == tcgets", 'no constant named "tcgets"', 'did you mean "TCGETS"?'),
        ("request & XYZ == 1", 'no constant named "XYZ"', "write the number"),
        ("request == 0x5q", '"0x5q" is not a number', "write it in decimal"),
        ("request == 010", '"010" is not a number', "write it in decimal"),
        ("request == 0x10000000000000000", '"0x10000000000000000" is longer', "an argument has 64 bits"),
        ("request & 0x10 == 1", '"request & 0x10 == 1" can never hold', "the value has bits outside"),
        ("fd == 0x100000000", '"fd == 0x100000000" can never hold', "only the low 32 bits are compared"),
        ("fd == 1 and fd == 2", '"fd == 1 and fd == 2" can never hold', "its parts contradict"),
        ("fd & 0 == 0", '"fd & 0 == 0" compares no bit', "name the call without `when`"),
    ],
)
def test_what_is_no_condition_is_told(text: str, what: str, hint: str) -> None:
    """A text that cannot be read, can never hold or always does is an error with a hint."""
    with pytest.raises(ConditionError) as caught:
        line(text)
    assert str(caught.value).startswith(what)
    assert caught.value.hint.startswith(hint)


def test_an_int_is_compared_by_its_low_half_and_a_pointer_whole() -> None:
    """The kernel ignores the high half of an int; NULL in the low half alone is not NULL."""
    number, pointer = line("fd == 5 and request == NULL").conditions
    assert number.holds([5 | 1 << 32, 0])
    assert pointer.holds([0, 0])
    assert not pointer.holds([0, 1 << 32])


def some_line(chance: random.Random) -> Line:
    """A line on two arguments of three bits each."""
    conditions = []
    for argument in chance.sample(range(2), chance.randint(0, 2)):
        mask = chance.randint(1, 7)
        conditions.append(Condition(argument, mask, chance.randint(0, 7) & mask))
    return Line("", tuple(sorted(conditions, key=lambda one: one.argument)))


def test_what_is_left_is_exact_and_without_overlap() -> None:
    """Over every argument there is: left where the one holds and the other does not, by one piece alone."""
    chance = random.Random(4)
    every = list(itertools.product(range(8), repeat=2))
    for _ in range(1000):
        one, other = some_line(chance), some_line(chance)
        pieces = without(one, other)
        for arguments in every:
            left = one.holds(arguments) and not other.holds(arguments)
            assert sum(piece.holds(arguments) for piece in pieces) == left, (one, other, arguments)
        both = any(one.holds(arguments) and other.holds(arguments) for arguments in every)
        assert meet(one, other) == both
        assert covers(other, one) == all(other.holds(at) for at in every if one.holds(at))


def test_what_is_left_reads_as_a_condition() -> None:
    """The text of a piece is the grammar's: it reads back as the same conditions."""
    for piece in without(line("fd == 3"), line("request == TCGETS and arg4 == NULL"), NAMES):
        assert line(piece.text).conditions == piece.conditions


def test_values_that_share_their_high_bits_take_few_pieces() -> None:
    """Eight neighbouring requests out of a whole call leave little more than one does."""
    pieces = [Line("", ())]
    for request in range(0x5400, 0x5408):
        pieces = [left for one in pieces for left in without(one, line(f"request == {request}"))]
    assert len(pieces) == 29
