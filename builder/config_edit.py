"""Adds what a config shall allow to config.yaml itself, and leaves every other byte as it is.

Every edit is checked against the data that it should give.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from builder.config import load_config
from builder.errors import ConfigError, UsageError
from builder.yaml_edit import CannotEdit, append, put

_CALL = re.compile(r"[a-z0-9_]+")
_NOT_UNDERSTOOD = "it has an anchor, or a form that is not understood"
_LISTS = ("groups", "allow", "unsafe")


@dataclass(frozen=True)
class Allowed:
    """What a config allows besides: a part of config.yaml."""

    network: bool = False
    groups: tuple[str, ...] = ()
    allow: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Single calls, each with the conditions of which one must hold; none: always."""
    unsafe: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Allowed()

    def __or__(self, other: Allowed) -> Allowed:
        """Both, sorted, each thing once."""
        conditions: dict[str, tuple[str, ...]] = {}
        for name, lines in sorted((*self.allow, *other.allow)):
            known = conditions.get(name)
            whole = known == () or not lines
            conditions[name] = () if whole else tuple(sorted({*(known or ()), *lines}))
        return Allowed(
            network=self.network or other.network,
            groups=tuple(sorted({*self.groups, *other.groups})),
            allow=tuple(conditions.items()),
            unsafe=tuple(sorted({*self.unsafe, *other.unsafe})),
        )


_NETWORK = "enable_network: true"


def parse_allowed(text: str) -> Allowed | None:
    """What `text`, such as `syscalls: {groups: [files]}`, allows; None where it is no part of a config."""
    network, both, rest = text.partition(" and ")
    if both and network == _NETWORK:
        more = parse_allowed(rest)
        return more and Allowed(network=True) | more
    try:
        data = yaml.safe_load(text)
        if text == _NETWORK:
            return Allowed(network=True)
        ((section, lists),) = data.items()
        if section != "syscalls" or not set(lists) <= set(_LISTS):
            return None
        return Allowed(
            groups=tuple(str(name) for name in lists.get("groups", ())),
            allow=tuple(_entry(one) for one in lists.get("allow", ())),
            unsafe=tuple(str(name) for name in lists.get("unsafe", ())),
        )
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError):
        return None


def render_allowed(allowed: Allowed) -> str:
    """The lines of config.yaml, ready to paste, that allow this and no more."""
    lines = ["enable_network: true"] if allowed.network else []
    lists = {key: items for key in _LISTS if (items := _items(allowed, key))}
    if lists:
        lines.append("syscalls:")
        lines += [f"  {key}: [{', '.join(items)}]" for key, items in lists.items()]
    return "".join(f"{line}\n" for line in lines)


def write_allowed(path: Path, allowed: Allowed) -> str:
    """Has the config at `path` allow this too; returns the change as a diff, empty where there was none.

    The file is replaced as a whole and keeps its mode. ConfigError where it has faults already, UsageError
    where it cannot be edited: then it is as it was.
    """
    load_config(path, {})
    target = path.resolve()  # a link stays a link
    raw = target.read_bytes()
    old = raw.decode()
    new = add_allowed(old, allowed, str(path))
    if new == old:
        return ""
    try:
        _replace(target, path, new.encode())
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written: {error.strerror}", f"add it by hand:\n{render_allowed(allowed)}"
        ) from None
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), str(path), f"{path} (new)", n=1, lineterm=""
    )
    return "".join(f"{line}\n" for line in lines)


def add_allowed(text: str, allowed: Allowed, where: str = "config.yaml") -> str:
    """`text`, a good config, allowing this too; UsageError, about `where`, if it cannot be edited."""
    before = yaml.safe_load(text)
    result = text
    try:
        if allowed.network and (before or {}).get("enable_network") is not True:
            result = put(result, ("enable_network",), "true")
        syscalls = (before or {}).get("syscalls") or {}
        for key in _LISTS:
            result = _add_to_list(result, key, allowed, syscalls.get(key) or [])
        right = yaml.safe_load(result) == _with(before, allowed)
        reason = _NOT_UNDERSTOOD
    except (yaml.YAMLError, ValueError):
        right, reason = False, _NOT_UNDERSTOOD
    except CannotEdit as error:
        right, reason = False, str(error)
    if not right:
        raise UsageError(
            f"{where}: cannot be edited in place: {reason}", f"add it by hand:\n{render_allowed(allowed)}"
        )
    return result


# What is missing, as data


def _with(data: dict[str, Any] | None, allowed: Allowed) -> dict[str, Any]:
    """`data` with what is allowed besides: what an edit must come to."""
    result = dict(data or {})
    if allowed.network:
        result["enable_network"] = True
    syscalls = dict(result.get("syscalls") or {})
    for key in _LISTS:
        present = list(syscalls.get(key) or [])
        if missing := _missing(allowed, key, present):
            for name, lines in missing:
                at = _conditional(present, name)
                if at is None:
                    present.append(name if not lines else {name: {"when": list(lines)}})
                else:
                    present[at] = {name: {"when": [*present[at][name]["when"], *lines]}}
            syscalls[key] = present
            result["syscalls"] = syscalls
    return result


def _missing(allowed: Allowed, key: str, present: Sequence[Any]) -> list[tuple[str, tuple[str, ...]]]:
    """(name, conditions) of what `allowed` has in the list `key`, and `present` has not."""
    if key != "allow":
        return [(name, ()) for name in getattr(allowed, key) if name not in present]
    missing = []
    for name, lines in allowed.allow:
        at = _conditional(present, name)
        if name in present:
            continue
        if at is None:
            missing.append((name, lines))
        elif not lines:
            raise CannotEdit(f"syscalls.allow[{at}] has conditions, and {name} is wanted whole")
        elif new := tuple(line for line in lines if line not in present[at][name]["when"]):
            missing.append((name, new))
    return missing


def _conditional(present: Sequence[Any], name: str) -> int | None:
    """Where `present` allows the call with conditions."""
    for at, entry in enumerate(present):
        if isinstance(entry, dict) and list(entry) == [name] and list(entry[name] or ()) == ["when"]:
            return at
    return None


def _entry(entry: str | dict[str, dict[str, list[str]]]) -> tuple[str, tuple[str, ...]]:
    ((name, lines),) = ((entry, ()),) if isinstance(entry, str) else entry.items()
    if not _CALL.fullmatch(name):
        raise ValueError(name)
    return name, tuple(lines["when"]) if isinstance(lines, dict) else ()


def _items(allowed: Allowed, key: str) -> list[str]:
    if key != "allow":
        return list(getattr(allowed, key))
    return [_entry_text(name, lines) for name, lines in allowed.allow]


def _entry_text(name: str, lines: Iterable[str]) -> str:
    conditions = ", ".join(json.dumps(line) for line in lines)
    return f"{{{name}: {{when: [{conditions}]}}}}" if conditions else name


def _add_to_list(text: str, key: str, allowed: Allowed, present: Sequence[Any]) -> str:
    for name, lines in _missing(allowed, key, present):
        at = _conditional(present, name)
        if at is None:
            text = append(text, ("syscalls", key), _entry_text(name, lines))
            continue
        for line in lines:
            text = append(text, ("syscalls", key, at, name, "when"), json.dumps(line))
    return text


# The file


def _replace(target: Path, path: Path, data: bytes) -> None:
    """Puts `data` in the place of the file `target` at once, with its mode, if it is a good config."""
    status = target.stat()
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".sandbox-build-")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
            with contextlib.suppress(PermissionError):  # only root gives files away
                os.fchown(descriptor, status.st_uid, status.st_gid)
            os.fchmod(descriptor, status.st_mode & 0o7777)
        try:
            load_config(partial, {})
        except ConfigError as error:
            problems = [(what.replace(name, f"{path} (new)"), hint) for what, hint in error.problems]
            raise ConfigError(problems) from None
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
