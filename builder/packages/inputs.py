"""What config.yaml asks for in Python packages: requirements, what is built from source, the index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.utils import canonicalize_name

from builder.arch import Arch
from builder.config import Config, parse_base
from builder.config_values import shown
from builder.config_yaml import dotted, read_document
from builder.errors import ConfigError
from builder.packages.requirements import Reading, Wanted, read_file, read_requirement, repeats

DIFY_FILE = Path("dependencies", "python-requirements.txt")
"""Where dify-sandbox has its requirements, beside config.yaml."""


@dataclass(frozen=True)
class DebianInputs:
    """What the Debian packages of a base depend on, but for what Debian has on that day."""

    base: str
    """As in config.yaml: debian:trixie."""
    packages: tuple[str, ...]
    """Of base_packages, sorted."""
    libraries: str
    """auto or strict."""


@dataclass(frozen=True)
class Inputs:
    """Everything that a lock file depends on, but for what the index has on that day."""

    requirements: tuple[str, ...]
    """Normalized and sorted: order and spelling in the config mean nothing."""
    constraints: tuple[str, ...]
    from_source: Mapping[str, tuple[str, ...]]
    """Normalized name -> the Debian packages that its build needs."""
    arches: tuple[Arch, ...]
    """The architectures that are asked for now: a lock may have more."""
    python_version: str
    """As 3.13."""
    index: str | None = field(default=None, repr=False)
    """The package index in place of the user's own; may carry a password."""
    base_mirror: str | None = field(default=None, repr=False)
    """Where the Debian packages come from that builds from source need."""
    where: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Package -> where it is asked for, as in an error."""
    debian: DebianInputs | None = None
    """None where the base is not made of Debian's packages."""
    found_file: Path | None = None
    """dify-sandbox's requirements file, where it was taken because the config has no `dependencies`."""

    @property
    def digest(self) -> str:
        """Another text whenever the lock may have to be another, apart from Python's version."""
        facts = [sorted(self.requirements), sorted(self.constraints), sorted(self.from_source.items())]
        return f"sha256:{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}"


def read_inputs(
    config: Config,
    config_path: Path,
    arches: Sequence[Arch],
    python_version: str,
    *,
    with_base: bool = False,
) -> Inputs | None:
    """What `config`, which was read from `config_path`, asks for; None where it asks for no package.

    With `with_base` the Debian packages of its base count, too. ConfigError with all that is wrong in the
    list or the requirements file.
    """
    folder = config_path.parent
    reading = Reading(folder=folder)
    found_file = None
    if config.dependencies is None:
        if (folder / DIFY_FILE).is_file():
            found_file = folder / DIFY_FILE
            read_file(found_file, reading)
    elif isinstance(config.dependencies, str):
        read_file(folder / config.dependencies, reading, named_at=f"{config_path}: dependencies: ")
    else:
        _read_list(config.dependencies, config_path, reading)
    from_source, problems = _from_source(config, config_path)
    reading.problems += [*repeats(reading.requirements), *problems]
    if reading.problems:
        raise ConfigError(reading.problems)
    debian = _debian(config)
    if not reading.requirements and not (with_base and debian):
        return None
    return Inputs(
        requirements=_texts(reading.requirements),
        constraints=_texts(reading.constraints),
        from_source=from_source,
        arches=tuple(arches),
        python_version=python_version,
        index=config.python_pip_mirror_url,
        base_mirror=config.base_mirror,
        where={one.name: one.where for one in reading.requirements},
        debian=debian,
        found_file=found_file,
    )


def _debian(config: Config) -> DebianInputs | None:
    if parse_base(config.base).kind != "debian":
        return None
    return DebianInputs(config.base, tuple(sorted(set(config.base_packages))), config.libraries)


def _texts(wanted: Sequence[Wanted]) -> tuple[str, ...]:
    return tuple(sorted({one.text for one in wanted}))


def _read_list(entries: Sequence[str], config_path: Path, reading: Reading) -> None:
    lines = read_document(config_path).lines if config_path.is_file() else {}
    for number, text in enumerate(entries):
        location = ("dependencies", number)
        line = f":{lines[location]}" if location in lines else ""
        found = read_requirement(text, f"{config_path}{line}: {dotted(location)}")
        if isinstance(found, Wanted):
            reading.requirements.append(found)
        else:
            reading.problems.append(found)


def _from_source(
    config: Config, config_path: Path
) -> tuple[dict[str, tuple[str, ...]], list[tuple[str, str | None]]]:
    found: dict[str, tuple[str, ...]] = {}
    problems: list[tuple[str, str | None]] = []
    for name, packages in config.from_source.items():
        normal = canonicalize_name(name)
        if normal in found:
            what = f"{config_path}: from_source: {shown(name)} is there twice, spelt in two ways"
            problems.append((what, "take one of them out"))
        found[normal] = tuple(sorted(set(packages)))
    return found, problems
