"""config.lock: written so that any tool that reads requirements can install from it, and read back.

What only we read stands in comments that begin with `#:`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.arch import ARCHES, Arch
from builder.base.debian_package import Selection
from builder.errors import ConfigError
from builder.packages import debianlines
from builder.packages.inputs import DebianInputs, Inputs

FORMAT = "1"

_HEAD = """\
# Made by `sandbox-build lock` from config.yaml. To change it, change that and lock again.
# Each file has its hash: pip install --require-hashes and uv pip sync can install from it, too.
"""
_PIN = re.compile(
    r"(?P<name>[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)==(?P<version>[a-z0-9.!+]+)"
    r"(?: ; platform_machine == '(?P<machine>[a-z0-9_]+)')?"
    r"(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOCK_HINT = "sandbox-build lock"
_HAND_HINT = f"it was changed by hand: {_LOCK_HINT}"


@dataclass(frozen=True, order=True)
class Pin:
    """One version of a package, and the files that it may come from."""

    name: str
    """Normalized."""
    version: str
    hashes: tuple[str, ...]
    """SHA-256 in hexadecimal: of one wheel; where it is built from source, of the sdist and the wheel."""


@dataclass(frozen=True)
class Source:
    """What is built from source, and with what."""

    sdist: str
    """SHA-256."""
    tools: Mapping[str, tuple[Pin, ...]] = field(default_factory=dict)
    """Architecture of the machine that builds -> what its build needs in Python packages."""


@dataclass(frozen=True)
class Lock:
    """A lock file, as it is or as it is to be; `inputs` are what it was read with, or made of."""

    inputs: Inputs
    pins: Mapping[str, tuple[Pin, ...]]
    """Architecture -> its packages, sorted by name."""
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Packages that are built from source."""
    debian: Mapping[str, Selection] = field(default_factory=dict)
    """Architecture -> the Debian packages of its base; empty where these are not locked."""

    @property
    def python_version(self) -> str:
        return self.inputs.python_version

    @property
    def requested(self) -> tuple[str, ...]:
        """The names of the packages that the config itself asks for, normalized and sorted."""
        return tuple(sorted(self.inputs.where))


@dataclass(frozen=True)
class Parsed:
    """What is in a lock file."""

    facts: Mapping[str, tuple[str, ...]]
    """Key of a `#:` line -> its values, in order."""
    pins: Mapping[str, tuple[Pin, ...]]
    sources: Mapping[str, Source]
    debian: Mapping[str, Selection]


def lock_path(config_path: Path) -> Path:
    """The lock file of a config: it lies beside it."""
    return config_path.with_suffix(".lock")


def render(lock: Lock) -> str:
    """The text of a lock file: the same lock, the same bytes."""
    inputs = lock.inputs
    facts = [
        ("format", FORMAT),
        ("python", inputs.python_version),
        *(("arch", name) for name in sorted(lock.pins)),
        ("inputs", inputs.digest),
        *(("requirement", text) for text in inputs.requirements),
        *(("constraint", text) for text in inputs.constraints),
        *(("from-source", " ".join([n, *packages])) for n, packages in sorted(inputs.from_source.items())),
        *(("sdist", f"{name} {source.sdist}") for name, source in sorted(lock.sources.items())),
    ]
    for name, source in sorted(lock.sources.items()):
        facts += [("build", f"{name} {line}") for line in _pin_lines(source.tools, " ", len(ARCHES))]
    facts += debianlines.facts(inputs.debian, lock.debian)
    head = "".join(f"#: {key} {value}\n" for key, value in facts)
    return f"{_HEAD}#\n{head}\n" + "".join(
        f"{line}\n" for line in _pin_lines(lock.pins, " \\\n    ", len(lock.pins))
    )


def _pin_lines(pins: Mapping[str, Sequence[Pin]], joint: str, all_of_them: int) -> list[str]:
    """A line for each pin: once where all architectures have it, else with a marker for each."""
    owners: dict[Pin, list[str]] = {}
    for arch in sorted(pins):
        for pin in pins[arch]:
            owners.setdefault(pin, []).append(arch)
    lines = []
    for pin, arches in sorted(owners.items(), key=lambda one: (one[0].name, one[1], one[0])):
        hashes = [f"--hash=sha256:{value}" for value in sorted(pin.hashes)]
        markers = [""]
        if len(arches) != all_of_them:
            markers = [f" ; platform_machine == '{ARCHES[arch].machine}'" for arch in arches]
        lines += [joint.join([f"{pin.name}=={pin.version}{marker}", *hashes]) for marker in markers]
    return lines


def parse(text: str) -> Parsed:
    """What `text` says; ValueError (with a line's number) for what `render` does not write."""
    facts: dict[str, list[str]] = {}
    lines: list[tuple[int, str]] = []
    debian: list[tuple[int, str, str]] = []
    for number, line in enumerate(text.replace(" \\\n", " ").splitlines(), 1):
        if line.startswith("#: "):
            key, _, value = line[3:].partition(" ")
            facts.setdefault(key, []).append(value)
            debian.append((number, key, value))
        elif line and not line.startswith("#"):
            lines.append((number, line))
    if facts.get("format") != [FORMAT]:
        raise ValueError("it is of another format")
    arches = facts.get("arch", [])
    if not arches or not set(arches) <= set(ARCHES) or len(facts.get("python", [])) != 1:
        raise ValueError("its head is not whole")
    sources: dict[str, Source] = {}
    tools: dict[str, list[str]] = {}
    for value in facts.get("build", []):
        name, _, line = value.partition(" ")
        tools.setdefault(name, []).append(line)
    for value in facts.get("sdist", []):
        name, _, digest = value.partition(" ")
        if not _SHA256.fullmatch(digest):
            raise ValueError(f"the sdist of {name[:80]!r} has no SHA-256")
        pins = _pins(tools.get(name, []), ARCHES)
        sources[name] = Source(digest, {arch: found for arch, found in pins.items() if found})
    found = _pins([line for _, line in lines], arches)
    in_order = {key: tuple(values) for key, values in facts.items()}
    return Parsed(in_order, found, sources, debianlines.parse(debian, arches))


def _pins(lines: Iterable[str], arches: Iterable[str]) -> dict[str, tuple[Pin, ...]]:
    found: dict[str, set[Pin]] = {arch: set() for arch in arches}
    for line in lines:
        line = " ".join(line.split())
        match = _PIN.fullmatch(line)
        if match is None:
            raise ValueError(f"{line.split(' --hash')[0][:80]!r} is no line that `sandbox-build lock` writes")
        hashes = tuple(sorted(match["hashes"].replace("--hash=sha256:", "").split()))
        pin = Pin(match["name"], match["version"], hashes)
        for arch, pins in found.items():
            if match["machine"] in (None, ARCHES[arch].machine):
                if any(other.name == pin.name for other in pins):
                    raise ValueError(f"{pin.name} is there twice for {arch}")
                pins.add(pin)
    return {arch: tuple(sorted(pins)) for arch, pins in found.items()}


def read_lock(path: Path, inputs: Inputs) -> Lock:
    """The lock file at `path`; ConfigError where there is none, or where it is not of `inputs`."""
    parsed = parse_file(path)
    problems = list(_disagreements(path, parsed, inputs))
    if problems:
        raise ConfigError(problems)
    return Lock(inputs, parsed.pins, parsed.sources, parsed.debian)


def parse_file(path: Path) -> Parsed:
    """What the lock file at `path` says; ConfigError where there is none or it cannot be read."""
    try:
        return parse(path.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigError([(f"{path}: the packages are not locked yet", _LOCK_HINT)]) from None
    except OSError as error:
        raise ConfigError([(f"{path}: {error.strerror}", None)]) from None
    except ValueError as error:
        what = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        hint = f"it was changed by hand, or by a merge: {_LOCK_HINT}"
        raise ConfigError([(f"{path}: {what}", hint)]) from None


def _disagreements(path: Path, parsed: Parsed, inputs: Inputs) -> Iterable[tuple[str, str | None]]:
    """Each way in which a lock file is not of `inputs`."""
    (version,) = parsed.facts["python"]
    if version != inputs.python_version:
        yield f"{path}: locked for Python {version}, but the base has {inputs.python_version}", _LOCK_HINT
    missing = [arch.name for arch in inputs.arches if arch.name not in parsed.pins]
    if missing:
        arches = "".join(f" --arch {name}" for name in sorted({*parsed.pins, *missing}))
        yield f"{path}: not locked for {' and '.join(missing)}", f"{_LOCK_HINT}{arches}"
    changed = [
        *_changes("requirement", parsed, inputs.requirements),
        *_changes("constraint", parsed, inputs.constraints),
        *_changes(
            "from-source", parsed, [" ".join([name, *debs]) for name, debs in inputs.from_source.items()]
        ),
        *debian_changes(parsed, inputs.debian),
    ]
    if changed:
        yield f"{path}: config and lock disagree: {'; '.join(changed)}", _LOCK_HINT
    elif parsed.facts.get("inputs") != (inputs.digest,):
        yield f"{path}: its digest is not that of what it says", _HAND_HINT
    lacking = sorted(set(inputs.from_source) - set(parsed.sources))
    if lacking and not changed:
        yield f"{path}: no sdist for {', '.join(lacking)}", _HAND_HINT
    for name, source in sorted(parsed.sources.items()):
        if name not in inputs.from_source and not changed:
            yield f"{path}: an sdist of {name!r}, which is not built from source", _HAND_HINT
        for arch, pins in sorted(parsed.pins.items()):
            if any(pin.name == name and source.sdist not in pin.hashes for pin in pins):
                yield f"{path}: the sdist of {name!r} is not among its hashes for {arch}", _HAND_HINT


def debian_changes(parsed: Parsed, wanted: DebianInputs | None) -> list[str]:
    """Each way in which locked Debian packages are not those that `wanted` asks for; none are in order."""
    if not parsed.debian:
        return []
    asked: dict[str, list[str]] = {key: [] for key in debianlines.KEYS}
    for key, value in debianlines.inputs_facts(wanted):
        asked[key].append(value)
    return [change for key, values in asked.items() for change in _changes(key, parsed, values)]


def _changes(key: str, parsed: Parsed, wanted: Iterable[str]) -> Iterable[str]:
    what = key.replace("-", "_")
    locked, asked = set(parsed.facts.get(key, ())), set(wanted)
    for text in sorted(asked - locked):
        yield f"{what} {text} is not locked"
    for text in sorted(locked - asked):
        yield f"{what} {text} is locked, but no longer asked for"


def arches_of(lock: Lock) -> tuple[Arch, ...]:
    """The architectures that are locked."""
    return tuple(ARCHES[name] for name in sorted(lock.pins))
