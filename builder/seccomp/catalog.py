"""Reads images/python/seccomp.yaml, the one place that says which calls there are to allow, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

_INT_BITS = 0xFFFF_FFFF
_ALL_BITS = 0xFFFF_FFFF_FFFF_FFFF
_TERM = re.compile(r"(?P<argument>\w+)(?: & (?P<mask>\w+))? == (?P<value>\w+)")


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
    """Conditions that must hold together: one line of a rule's `when`."""

    text: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Rule:
    """One call, why it is there, and when it is allowed."""

    name: str
    reason: str
    when: tuple[Line, ...] = ()
    """Any one of these lines suffices; without lines the call is allowed whatever its arguments."""


@dataclass(frozen=True)
class Group:
    """What config.yaml opens by one name."""

    name: str
    risk: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Catalog:
    """All of images/python/seccomp.yaml, in its order."""

    groups: Mapping[str, Group]
    default: tuple[str, ...]
    enosys: tuple[Rule, ...]
    kill: tuple[Rule, ...]
    landlock: Mapping[str, str]
    """Calls that the level `landlock` denies besides, each with the reason."""
    refused: Mapping[str, str]
    """Set-up calls that nothing in config.yaml opens, each with the reason."""

    def rules_for(self, name: str) -> tuple[Rule, ...]:
        """What all groups together allow of the call `name`."""
        return tuple(rule for group in self.groups.values() for rule in group.rules if rule.name == name)


def load_groups() -> dict[str, Group]:
    """Every group by its name, in the order of the file."""
    return dict(load_catalog().groups)


def default_groups() -> tuple[str, ...]:
    """The groups of a config that names none."""
    return load_catalog().default


@cache
def load_catalog() -> Catalog:
    """The file that ships with us; ValueError where it does not say what it must (a fault of ours)."""
    return parse_catalog((files("images") / "python" / "seccomp.yaml").read_text(encoding="utf-8"))


def parse_catalog(text: str) -> Catalog:
    """The catalog that `text` describes, in the format that images/python/seccomp.yaml explains."""
    raw = yaml.safe_load(text)
    constants = {"NULL": 0, **raw["constants"]}
    return Catalog(
        groups={
            name: Group(
                name=name,
                risk=group["risk"],
                rules=tuple(_rule(call, spec, constants) for call, spec in group["calls"].items()),
            )
            for name, group in raw["groups"].items()
        },
        default=tuple(raw["default"]),
        enosys=tuple(Rule(name, reason) for name, reason in raw["enosys"].items()),
        kill=tuple(Rule(name, reason) for name, reason in raw["kill"].items()),
        landlock=raw["landlock"],
        refused=raw["refused"],
    )


def _rule(name: str, spec: str | dict[str, Any], constants: Mapping[str, int]) -> Rule:
    if isinstance(spec, str):
        return Rule(name, spec)
    lines = tuple(
        Line(line, tuple(_condition(term, spec["args"], constants) for term in line.split(" and ")))
        for line in spec["when"]
    )
    if not lines:  # would read as "never" and mean "always"
        raise ValueError(f"{name}: `when` is empty")
    return Rule(name, spec["reason"], lines)


def _condition(term: str, arguments: list[str], constants: Mapping[str, int]) -> Condition:
    match = _TERM.fullmatch(term)
    if match is None:
        raise ValueError(f"{term!r} is not `argument == value` or `argument & mask == value`")

    def number(word: str) -> int:
        return constants[word] if word in constants else int(word, 0)

    # An int is compared by its low half: the kernel reads no more, and the high half may hold anything.
    mask = _ALL_BITS if match["value"] == "NULL" else _INT_BITS
    if match["mask"]:
        mask = number(match["mask"])
    value = number(match["value"])
    if value & ~mask:
        raise ValueError(f"{term!r} can never hold")
    return Condition(arguments.index(match["argument"]), mask, value)
