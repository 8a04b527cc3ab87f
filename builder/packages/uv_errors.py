"""What uv says when it fails, as one line and a hint that mends it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from builder.errors import BuildError
from builder.packages.index import Sources

_LAST_LINES = 15
_NAME = r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?"
_VERSION = r"(?P<version>(?:[=<>!~]=?|===)[^\s]+)?"


@dataclass(frozen=True)
class Question:
    """What uv was asked."""

    python_version: str
    arch: str
    where: Mapping[str, str]
    """Package -> where it is asked for."""
    sources: Sources


@dataclass(frozen=True)
class _Case:
    pattern: str
    message: str
    hint: str
    explained: bool = False
    """Whether uv's own words follow."""


_FROM_SOURCE = "from_source: {{{name}: []}} in config.yaml builds it from source"
_CASES = (
    # The first that matches decides.
    _Case(
        r"[Nn]o space left on device|os error 28|os error 122",
        "the disk is full",
        "make room there; XDG_CACHE_HOME and TMPDIR name other folders",
        explained=True,
    ),
    _Case(
        r"[Pp]ermission denied|os error 13\b|Read-only file system|os error 30\b",
        "uv may not write what it must",
        "XDG_CACHE_HOME (or UV_CACHE_DIR) names another folder for its cache",
        explained=True,
    ),
    _Case(
        r"lack of valid authentication|401 Unauthorized|403 Forbidden",
        "the package index wants a user and a password, or others than these",
        "python_pip_mirror_url: https://USER:PASSWORD@HOST/... ; or ~/.netrc",
    ),
    _Case(
        r"error sending request|Failed to fetch|dns error|tcp connect error|timed out|status server error",
        "the package index cannot be reached: {cause}",
        "is the network up? python_pip_mirror_url names an index; --wheelhouse DIR --no-index needs none",
    ),
    _Case(
        rf"{_NAME} was not found in (?:the|any of the) (?:provided package locations|cache)",
        "{name}: no wheel of it in {folder}{where}",
        "put one there: `sandbox-build wheelhouse DIR` fills a folder where there is a network",
    ),
    _Case(
        rf"{_NAME} was not found in the package registry",
        "{name}: the index has no such package{where}",
        "is the name spelt right? It is the index's name, not the one that is imported",
    ),
    _Case(
        rf"(?:there is|there are) no versions? of {_NAME}{_VERSION}",
        "{name}{version}: no such version{where}",
        "ask for one that there is; a wider range such as {name}>=1,<3 leaves the choice to the lock",
    ),
    _Case(
        rf"(?:all versions of )?{_NAME}{_VERSION} (?:has|have) no usable wheels",
        "{name}{version}: there is no wheel, only source{where}",
        f"{_FROM_SOURCE}; or ask for another version",
    ),
    _Case(
        rf"(?:all versions of )?{_NAME}{_VERSION} (?:has|have) no wheels with a matching",
        "{name}{version}: no wheel for Python {python} on {arch}{where}",
        f"ask for another version of it; or {_FROM_SOURCE}",
        explained=True,
    ),
    _Case(
        r"Hash mismatch",
        "a file has another hash than the locked one",
        "it was replaced, or damaged on its way: find out which, before locking again",
        explained=True,
    ),
    _Case(
        r"No solution found when resolving dependencies",
        "the requirements contradict each other (Python {python}, {arch})",
        "loosen one of those that are named, or leave it out",
        explained=True,
    ),
)


def translated(lines: Sequence[str], question: Question) -> BuildError:
    """The error that uv's output `lines` tell of."""
    said = _without_warnings(lines)
    text = " ".join(" ".join(said).split())
    for case in _CASES:
        match = re.search(case.pattern, text)
        if match is None:
            continue
        groups = {key: value or "" for key, value in match.groupdict().items()}
        name = canonicalize_name(groups.get("name", ""))
        where = question.where.get(name)
        facts = groups | {
            "name": name,
            # A sentence ends behind it, or goes on.
            "version": groups.get("version", "").rstrip(".,"),
            "where": f" ({where})" if where else "",
            "python": question.python_version,
            "arch": question.arch,
            "folder": str(question.sources.wheelhouse or "any folder"),
            "cause": _cause(said),
        }
        shown = _shown(said) if case.explained or (name and not where) else ""
        return BuildError(case.message.format(**facts) + shown, case.hint.format(**facts))
    return BuildError(f"uv failed{_shown(said)}")


def _without_warnings(lines: Sequence[str]) -> list[str]:
    """The lines but those of warnings, and of what went well."""
    kept = []
    skipping = False
    for line in lines:
        if re.match(r"(warning|Using|Resolved|Prepared|Downloading|Downloaded)\b", line.strip()):
            skipping = True
        elif re.match(r"(error|hint)\b", line):
            skipping = False
        if not skipping and line.strip():
            kept.append(line)
    return kept


def _cause(lines: Sequence[str]) -> str:
    """The innermost reason, which says most, and whom it is about."""
    causes = [line.strip().removeprefix("cause:").strip() for line in lines if "cause:" in line]
    return "; ".join(dict.fromkeys([causes[0], causes[-1]])) if causes else " ".join(lines[-1:])


def _shown(lines: Sequence[str]) -> str:
    return "".join(f"\n  < {line.strip()}" for line in lines[-_LAST_LINES:])
