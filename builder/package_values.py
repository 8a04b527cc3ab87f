"""The grammar of package names in config.yaml, as config_values.py has that of the other values."""

from __future__ import annotations

import re

from packaging.requirements import InvalidRequirement, Requirement

from builder.config_values import plain_path, shown, wrong

_DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_DEBIAN_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_PYTHON_VERSION = re.compile(r"3\.[1-9][0-9]")
_DEPENDENCIES_HINT = "a list such as [numpy, pandas>=2.2], or the path of a requirements file"


def dependencies(value: object) -> tuple[str, ...] | str:
    """A list of requirements, or the path of a file that has them."""
    if isinstance(value, str):
        return plain_path(value)
    if not isinstance(value, list | tuple):
        raise wrong("neither requirements nor the path of a file with them", _DEPENDENCIES_HINT)
    return tuple(requirement(one) for one in value)


def requirement(value: object) -> str:
    """A requirement as of PEP 508, by name: where it comes from is the index's to say."""
    if not isinstance(value, str):
        raise wrong(f"{shown(value)} is not a requirement", 'write it as text: "numpy>=2"')
    try:
        parsed = Requirement(value)
    except InvalidRequirement:
        hint = "a name, with a version where it matters: numpy, pandas>=2.2, uvicorn[standard]"
        raise wrong(f"{shown(value)} is not a requirement", hint) from None
    if parsed.url:
        hint = "name the package; one that is on no index goes into the folder of --wheelhouse"
        raise wrong(f"{shown(parsed.name)} comes from a URL, which cannot be locked", hint)
    return value.strip()


def distribution(text: str) -> str:
    """The name of a package as an index has it."""
    if not _DISTRIBUTION.fullmatch(text):
        raise wrong(f"{shown(text)} is not the name of a package", "the name alone, such as jieba")
    return text


def debian_package(text: str) -> str:
    """The name of a Debian package (Debian policy, 5.6.1)."""
    if not _DEBIAN_PACKAGE.fullmatch(text):
        raise wrong(f"{shown(text)} is not the name of a Debian package", "the name alone, such as libgomp1")
    return text


def python_version(value: object) -> str:
    """The version of an interpreter, as 3.13."""
    if not isinstance(value, str) or not _PYTHON_VERSION.fullmatch(value):
        raise wrong(f"{shown(value)} is not a version of Python", 'write it in quotes, as "3.13"')
    return value


def module_name(text: str) -> str:
    """What an import statement names: numpy, or numpy.linalg."""
    if not all(part.isidentifier() for part in text.split(".")):
        raise wrong(f"{shown(text)} cannot be imported", "write the module's name, such as numpy.linalg")
    return text
