"""Vectors: calls, each with the answer that it must get. images/python/vectors.yaml has the form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from builder.arch import ARCHES, Arch
from builder.config_values import shown
from builder.config_yaml import UNREAD, Document, dotted, read_document
from builder.errors import ConfigError, UsageError
from builder.seccomp.catalog import load_catalog
from builder.seccomp.compile import X32_BIT
from builder.seccomp.snapshot import ALLOW, DENY, ENOSYS, KILL, Snapshot
from builder.seccomp.syscalls import known_names, number

ABIS = {
    "x32": None,  # amd64's AUDIT_ARCH, and a bit in the number
    "i386": 0x4000_0003,
    "arm": 0x4000_0028,
    **{arch.name: arch.audit_arch for arch in ARCHES.values()},
}
"""AUDIT_ARCH_* (linux/audit.h) of the ABIs by which a call can enter the kernel."""

LEVELS = ("chroot", "landlock")
EXPECTATIONS = (ALLOW, DENY, ENOSYS, KILL)
_KEYS = ("call", "arguments", "expect", "arch", "abi", "with", "without", "level", "why")
_HIGHEST_NUMBER = 0xFFFF_FFFF
_FILE_HINT = "write `vectors:` and below it lines such as `- {call: mkdirat, expect: allow}`"
_ARGUMENTS_HINT = "a list of at most six: [AF_INET, 1, 0]"

Problem = tuple[str, str]
"""What is wrong, and what mends it."""


@dataclass(frozen=True)
class Vector:
    """One call, and what a policy must answer."""

    where: str
    """FILE:LINE."""
    call: str | int
    expect: str
    arguments: tuple[int, ...] = ()
    arches: tuple[str, ...] = tuple(ARCHES)
    abi: str | None = None
    within: tuple[str, ...] = ()
    """It holds where one of these groups is in force."""
    without: tuple[str, ...] = ()
    level: str | None = None
    why: str = ""
    yields: bool = False
    """Whether a line of the config that opens or takes away the very call overrules it."""

    def entry(self, arch: Arch) -> tuple[int, int] | None:
        """AUDIT_ARCH and number with which a filter for `arch` meets the call; None where that has none."""
        if arch.name not in self.arches or self.abi == arch.name:
            return None
        found = number(self.call, arch) if isinstance(self.call, str) else self.call
        if found is None:
            return None
        audit_arch = ABIS[self.abi] if self.abi else arch.audit_arch
        return (audit_arch, found) if audit_arch is not None else (arch.audit_arch, found | X32_BIT)

    def concerns(self, policy: Snapshot, level: str) -> bool:
        """Whether the vector says anything about `policy` at `level`."""
        in_force = set(policy.groups)
        return (
            (not self.within or bool(in_force & set(self.within)))
            and not in_force & set(self.without)
            and self.level in (None, level)
        )

    def overruled(self, policy: Snapshot) -> bool:
        """Whether the config itself says otherwise, in what it may decide."""
        if not self.yields or not isinstance(self.call, str):
            return False
        named = policy.denied if self.expect == ALLOW else policy.own
        found = number(self.call, policy.arch)
        return (
            self.call in named
            and found is not None
            and policy.answer(found, self.arguments) != self.expect
            and not self._is_guarded()
        )

    def _is_guarded(self) -> bool:
        """Whether the call has arguments that nothing in a config opens."""
        padded = (*self.arguments, *[0] * (6 - len(self.arguments)))
        lines = [line for rule in load_catalog().guarded if rule.name == self.call for line in rule.when]
        return any(line.holds(padded) for line in lines)


def our_vectors() -> tuple[Vector, ...]:
    """Those that ship with us."""
    with resources.as_file(resources.files("images") / "python" / "vectors.yaml") as path:
        return _read(path, "vectors.yaml", yields=True)


def read_vectors(path: Path) -> tuple[Vector, ...]:
    """Those in a user's file; ConfigError with all that is wrong in it, UsageError where there is none."""
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file", _FILE_HINT)
    return _read(path, str(path), yields=False)


def _read(path: Path, name: str, *, yields: bool) -> tuple[Vector, ...]:
    document = read_document(path, example=_FILE_HINT)
    found: list[tuple[int, str, str]] = [*document.problems]
    vectors = []
    for key in document.data:
        if key != "vectors":
            found.append((document.lines[(key,)], f"{dotted((key,))}: there is no such key", _FILE_HINT))
    entries = document.data.get("vectors")
    if not isinstance(entries, list) or not entries:
        found.append((document.lines.get(("vectors",), 1), "vectors: a list is needed", _FILE_HINT))
        entries = []
    for index, entry in enumerate(entries):
        line = document.lines["vectors", index]
        place = f"{name}:{line}"
        if entry is UNREAD:
            continue
        if not isinstance(entry, dict):
            found.append((line, f"vectors[{index}]: keys with values are needed", _FILE_HINT))
        elif problems := [*_problems(entry)]:
            found += [_located(document, index, key, problem) for key, problem in problems]
        else:
            vectors.append(_vector(entry, place, yields))
    if found:
        found.sort(key=lambda problem: problem[0])
        raise ConfigError([(f"{name}:{line}: {what}", hint) for line, what, hint in found])
    return tuple(vectors)


def _located(document: Document, index: int, key: str, problem: Problem) -> tuple[int, str, str]:
    here = ("vectors", index, key)
    line = document.lines.get(here, document.lines["vectors", index])
    return line, f"{dotted(here)}: {problem[0]}", problem[1]


def _vector(entry: Mapping[str, Any], where: str, yields: bool) -> Vector:
    return Vector(
        where=where,
        call=entry["call"],
        expect=entry["expect"],
        arguments=tuple(_argument(one) for one in entry.get("arguments") or ()),
        arches=tuple(_list(entry.get("arch"))) or tuple(ARCHES),
        abi=entry.get("abi"),
        within=tuple(_list(entry.get("with"))),
        without=tuple(_list(entry.get("without"))),
        level=entry.get("level"),
        why=entry.get("why") or "",
        yields=yields,
    )


def _list(value: Any) -> list[Any]:
    """A list, also of what may stand for a list of one."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _argument(value: int | str) -> int:
    """The number behind 5, AF_INET or "O_RDWR | 0x40"; ValueError where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(value)
    if isinstance(value, int):
        return value
    constants, result = load_catalog().constants, 0
    for word in value.split("|"):
        result |= constants[word.strip()] if word.strip() in constants else int(word, 0)
    return result


# What is wrong with an entry: (key, (what, hint))


def _problems(entry: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
    for key in entry:
        if key not in _KEYS:
            yield key, ("there is no such key", _meant(key, _KEYS) or f"the keys are {', '.join(_KEYS)}")
    if UNREAD in entry.values():
        return  # told already, with its line
    yield from (("call", problem) for problem in _call_problems(entry))
    choices = {"expect": EXPECTATIONS, "level": LEVELS, "abi": tuple(ABIS)}
    for key, allowed in choices.items():
        value = entry.get(key)
        if value not in allowed and (key == "expect" or value is not None):
            yield key, (_not(value), _meant(value, allowed) or f"one of {', '.join(allowed)}")
    groups = tuple(load_catalog().groups)
    for key, allowed in {"arch": tuple(ARCHES), "with": groups, "without": groups}.items():
        for value in _list(entry.get(key)):
            if value not in allowed:
                yield key, (_not(value), _meant(value, allowed) or f"one of {', '.join(allowed)}")
    arguments = entry.get("arguments")
    if arguments is not None and not isinstance(arguments, list):
        yield "arguments", (_not(arguments), _ARGUMENTS_HINT)
    elif arguments and len(arguments) > 6:
        yield "arguments", (f"{len(arguments)} arguments are too many", _ARGUMENTS_HINT)
    elif arguments:
        yield from (("arguments", problem) for one in arguments for problem in _argument_problems(one))
    if not isinstance(entry.get("why", ""), str | None):
        yield "why", (_not(entry["why"]), "put the text in quotes")


def _call_problems(entry: Mapping[str, Any]) -> Iterator[Problem]:
    call, arches = entry.get("call"), entry.get("arch")
    if isinstance(call, bool) or not isinstance(call, int | str):
        yield _not(call), "the name of a system call, or its number"
    elif isinstance(call, int):
        if not 0 <= call <= _HIGHEST_NUMBER:
            yield _not(call), f"numbers go from 0 to {_HIGHEST_NUMBER:#x}"
        elif arches is None and entry.get("abi") is None:
            yield "whose number is this?", "add `arch: amd64` or `arch: arm64`; or write the call's name"
    elif entry.get("abi") in tuple(ABIS):
        yield "with `abi` the call's number is needed", "the number that the call has in that ABI"
    elif call not in known_names():
        quotes = "take the quotes off, and add `arch: amd64` or `arch: arm64`"
        hint = quotes if call.isdecimal() else _meant(call, known_names()) or "man 2 syscalls has their names"
        yield f"no system call named {shown(call)} on amd64 or arm64", hint
    else:
        for name in _list(arches):
            if name in ARCHES and number(call, ARCHES[name]) is None:
                yield f"{name} has no call {shown(call)}", "take it out of `arch`"


def _argument_problems(value: Any) -> Iterator[Problem]:
    try:
        if not -(1 << 63) <= _argument(value) < 1 << 64:
            yield _not(value), "an argument has 64 bits"
    except ValueError:
        close = _meant(value, load_catalog().constants)
        yield _not(value), close or "a number, a constant of seccomp.yaml, or several joined by |"


def _not(value: Any) -> str:
    if value is None:
        return "a value is needed"
    return f"{shown(value)} is not understood" if isinstance(value, str | int) else "this is not understood"


def _meant(value: Any, candidates: Any) -> str | None:
    """A question that names what was probably meant."""
    words = {str(word).lower(): str(word) for word in candidates}
    close = get_close_matches(str(value).lower(), sorted(words), n=1, cutoff=0.7)
    return f"did you mean {words[close[0]]}?" if close else None
