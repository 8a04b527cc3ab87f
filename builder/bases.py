"""images/python/bases.yaml: the suites that can be a base, and where a base's interpreter is."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any

import yaml

from builder.config_values import Base as BaseName
from builder.errors import ConfigError


@dataclass(frozen=True)
class Suite:
    """A release of Debian."""

    name: str
    python_path: str
    packages: Mapping[str, str]
    """Package -> why it is there. What they depend on comes by itself."""


def find_suite(name: str) -> Suite:
    """The suite called `name`; ConfigError (exit 2) for any other, with a hint that has the known ones."""
    if problem := suite_problem(name):
        raise ConfigError([(f"base: {problem[0]}", problem[1])])
    return Suite(name, **_catalog()["debian"][name])


def suite_with(python_version: str) -> Suite:
    """A suite that has this version of Python, as 3.13; the first one that we know where none has it."""
    suites = [find_suite(name) for name in _catalog()["debian"]]
    path = f"/usr/bin/python{python_version}"
    return next((suite for suite in suites if suite.python_path == path), suites[0])


def suite_problem(name: str) -> tuple[str, str] | None:
    """(what is wrong, hint) for a name that is no suite of ours; None for one that is."""
    suites = _catalog()["debian"]
    if name in suites:
        return None
    alike = get_close_matches(name, suites, n=1)
    meant = f"did you mean debian:{alike[0]}? " if alike else ""
    known = " and ".join(f"debian:{suite}" for suite in suites)
    return f"debian:{name} is no base that we know", f"{meant}there are {known}"


def default_python_path(base: BaseName) -> str:
    """The interpreter's path in `base` where config.yaml gives none; for `host`, the one that runs us."""
    if base.kind == "debian":
        return find_suite(base.name).python_path
    if base.kind == "host":
        return f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    return str(_catalog()["image"]["python_path"])


def python_version(base: BaseName, python_path: str | None, given: str | None) -> str:
    """The version of the interpreter, as 3.13: what config.yaml says (`given`), else what names say.

    The build compares it with the interpreter that the base has. ConfigError (exit 2) where nothing says it.
    """
    if given:
        return given
    path = python_path or default_python_path(base)
    # An official image has the version in its tag: python:3.13-slim.
    tag = base.name.rpartition("/")[2] if base.kind == "image" and not python_path else ""
    found = re.search(r"python(3\.\d+)$", path) or re.match(r"python:(3\.\d+)", tag)
    if found is None:
        message = f"which version of Python {base.name} has cannot be seen from its name"
        raise ConfigError([(message, 'write it into the config: python_version: "3.13"')])
    return found[1]


@cache
def _catalog() -> Any:
    text = resources.files("images").joinpath("python", "bases.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)
