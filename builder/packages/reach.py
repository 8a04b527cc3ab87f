"""Which of the locked packages something asks for: the config, or a package that something asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from builder.arch import Arch

_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")


def unasked(
    requirements: Sequence[str],
    asked_by: Mapping[str, Sequence[str]],
    python_version: str,
    arch: Arch,
) -> list[str]:
    """The packages of `asked_by` that nothing asks for, on this architecture.

    `asked_by` has the requirements in each package's metadata, by its normalized name.
    """
    environment = _environment(python_version, arch)
    reached: set[tuple[str, str]] = set()
    """(package, one of its extras, or nothing)"""
    waiting = list(_asked(requirements, "", environment))
    while waiting:
        one = waiting.pop()
        if one in reached:
            continue
        reached.add(one)
        name, extra = one
        waiting += _asked(asked_by.get(name, ()), extra, environment)
    return sorted(set(asked_by) - {name for name, _ in reached})


def _asked(
    requirements: Iterable[str], extra: str, environment: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """What counts of `requirements`, with this extra."""
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            # Of old metadata uv reads more than `packaging` does. Such a line names a package, whatever else.
            if match := _NAME.match(text):
                yield canonicalize_name(match[1]), ""
            continue
        if requirement.marker is None or requirement.marker.evaluate({**environment, "extra": extra}):
            name = canonicalize_name(requirement.name)
            yield name, ""
            yield from ((name, canonicalize_name(one)) for one in requirement.extras)


def _environment(python_version: str, arch: Arch) -> dict[str, str]:
    """The markers' variables in an image (PEP 508), as uv has them for --python-version."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python_version}.0",
        "os_name": "posix",
        "platform_machine": arch.machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python_version}.0",
        "python_version": python_version,
        "sys_platform": "linux",
    }
