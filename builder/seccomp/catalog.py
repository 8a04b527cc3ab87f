"""Reads images/python/seccomp.yaml, the one place that says which calls there are to allow, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from builder.seccomp.conditions import Condition, Line, parse_line

__all__ = [
    "Catalog",
    "Condition",
    "Group",
    "Line",
    "Rule",
    "default_groups",
    "load_catalog",
    "load_groups",
    "parse_catalog",
]

# libyaml's parser reads the file in a tenth of the time, where PyYAML was built with it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
    """Set-up calls that only syscalls.unsafe opens, each with the reason."""
    probes: tuple[Rule, ...]
    """Arguments with which a denied call is not worth a word."""
    guarded: tuple[Rule, ...]
    """Arguments of other calls that nothing in config.yaml opens."""
    counterparts: Mapping[str, str]
    """Calls of amd64 alone, each with the one that does its work on arm64."""
    constants: Mapping[str, int]
    """The names that a condition may use for a number."""
    arguments: Mapping[str, tuple[str, ...]]
    """How conditions name a call's arguments, for the calls that have such names."""

    def rules_for(self, name: str) -> tuple[Rule, ...]:
        """What all groups together allow of the call `name`."""
        return tuple(rule for group in self.groups.values() for rule in group.rules if rule.name == name)

    def danger(self, name: str) -> str | None:
        """Why the call `name` is opened by syscalls.unsafe alone; None for one that is not dangerous."""
        for rule in self.kill:
            if rule.name == name:
                return rule.reason
        reason = self.refused.get(name)
        return self.danger(reason.removeprefix("as ")) if reason and reason.startswith("as ") else reason

    def line(self, name: str, text: str) -> Line:
        """The condition `text` for the call `name`; ConditionError for a text that is none."""
        return parse_line(text, name, self.arguments.get(name, ()), self.constants)


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
    raw = yaml.load(text, _LOADER)  # noqa: S506 - a safe one
    used = {"NULL": 0, **raw["constants"]}
    groups = {
        name: Group(name, group["risk"], _rules(group["calls"], used))
        for name, group in raw["groups"].items()
    }
    arguments = {call: tuple(names) for call, names in raw["arguments"].items()}
    for calls in (*(group["calls"] for group in raw["groups"].values()), raw["guarded"]):
        for call, spec in calls.items():
            if not isinstance(spec, str):
                arguments.setdefault(call, tuple(spec["args"]))
    return Catalog(
        groups=groups,
        default=tuple(raw["default"]),
        enosys=_rules(raw["enosys"], used),
        kill=_rules(raw["kill"], used),
        landlock=raw["landlock"],
        refused=raw["refused"],
        probes=_rules(raw["probes"], used),
        guarded=_rules(raw["guarded"], used),
        counterparts=raw["counterparts"],
        constants=used | raw["offered"],
        arguments=arguments,
    )


def _rules(calls: Mapping[str, str | dict[str, Any]], constants: Mapping[str, int]) -> tuple[Rule, ...]:
    return tuple(_rule(name, spec, constants) for name, spec in calls.items())


def _rule(name: str, spec: str | dict[str, Any], constants: Mapping[str, int]) -> Rule:
    if isinstance(spec, str):
        return Rule(name, spec)
    lines = tuple(parse_line(text, name, spec["args"], constants) for text in spec["when"])
    if not lines:  # would read as "never" and mean "always"
        raise ValueError(f"{name}: `when` is empty")
    return Rule(name, spec["reason"], lines)
