"""Makes a lock: uv resolves for each architecture; what comes from source is built, to see what it needs.

uv would run a package's build to read its metadata. It does not where `dependency-metadata` in its settings
has them, so: first it is told that a package from source needs nothing, which gives its version and sdist;
that is built in a confined place; then uv is told what the wheel's metadata say, and resolves again.
https://docs.astral.sh/uv/reference/settings/#dependency-metadata
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from builder.arch import Arch, host_arch
from builder.base.debian_package import Selection
from builder.errors import BuildError, ConfigError, room_hint
from builder.packages.fetch import Scratch, Store, counted
from builder.packages.index import Sources
from builder.packages.inputs import Inputs
from builder.packages.lockfile import Lock, Parsed, Pin, Source, debian_changes, parse, render
from builder.packages.source import Built, built_wheel, prepare, wheel_requires
from builder.packages.uv import File, Found, Metadata, Resolution, resolve
from builder.progress import Progress
from builder.whole_file import whole_file

_ROUNDS = 10
"""A package from source may ask for others that make it another version, and so on."""

Choose = Callable[[Lock, Mapping[str, Selection]], Mapping[str, Selection]]


def lock(
    inputs: Inputs,
    lock_path: Path,
    *,
    cache: Path,
    progress: Progress,
    wheelhouse: Path | None,
    index: bool,
    upgrade: bool = False,
    choose: Choose | None = None,
) -> Lock:
    """Resolves `inputs` for their architectures, and writes the lock file: whole, or not at all.

    Versions that are locked stay where they still fit, unless `upgrade` says otherwise. `choose` gives the
    base's Debian packages for what was resolved, and hears which are locked. BuildError with what is in the
    way, and a hint.
    """
    old = None if upgrade else _old(lock_path)
    sources = Sources(wheelhouse, index, inputs.index)
    made = Locking(inputs, sources, cache, progress).run(old, refresh=upgrade)
    if choose is not None:
        kept = old.debian if old and not debian_changes(old, inputs.debian) else {}
        made = replace(made, debian=choose(made, kept))
    write(lock_path, render(made))
    return made


class Locking:
    """One making of a lock."""

    def __init__(self, inputs: Inputs, sources: Sources, cache: Path, progress: Progress) -> None:
        self._inputs = inputs
        self._sources = sources
        self._cache = cache
        self._progress = progress
        self._store = Store(cache, sources, inputs.python_version, progress)
        self._old: Mapping[str, Source] = {}
        self._known: dict[tuple[str, str], tuple[Source, Path]] = {}
        """(package, version) -> how it is built, and the wheel that it comes to."""

    def run(self, locked: Parsed | None, *, refresh: bool) -> Lock:
        """The new lock, with as much of the `locked` one as still fits; `refresh` asks the index anew."""
        old = locked.pins if locked else {}
        self._old = locked.sources if locked else {}
        pins, sources = {}, {}
        with Scratch(self._cache) as scratch:
            for arch in sorted(self._inputs.arches, key=lambda one: one.name):
                preferred = {pin.name: pin.version for pins_ in old.values() for pin in pins_}
                preferred |= {pin.name: pin.version for pin in old.get(arch.name, ())}
                found = self._resolve(arch, preferred, scratch, refresh=refresh)
                pins[arch.name] = tuple(sorted(self._pin(one, arch) for one in found))
                for one in found:
                    if one.name in self._inputs.from_source:
                        sources[one.name] = self._known[one.name, one.version][0]
        for name in self._inputs.from_source:
            versions = {pin.version for ones in pins.values() for pin in ones if pin.name == name}
            if not versions:
                what = f"from_source: {name} is needed by nothing"
                raise ConfigError([(what, "take it out, or name it under dependencies")])
            if len(versions) > 1:
                what = f"{name} comes to another version on each architecture: {', '.join(sorted(versions))}"
                raise BuildError(what, f"ask for one of them: {name}=={max(versions)}")
        return Lock(self._inputs, pins, sources)

    def _resolve(
        self, arch: Arch, preferred: Mapping[str, str], scratch: Path, *, refresh: bool
    ) -> list[Found]:
        """The packages for `arch`, once it is known what each of those from source asks for."""
        inputs = self._inputs
        if not inputs.requirements:
            return []
        with self._progress.step(f"resolving {counted(inputs.requirements, 'requirement')} for {arch.name}"):
            for _ in range(_ROUNDS):
                metadata = [Metadata(name, None) for name in inputs.from_source]
                metadata += [
                    Metadata(name, version, wheel_requires(wheel))
                    for (name, version), (_, wheel) in self._known.items()
                ]
                wanted = Resolution(
                    requirements=inputs.requirements,
                    python_version=inputs.python_version,
                    arch=arch,
                    constraints=inputs.constraints,
                    preferred=preferred,
                    sources=metadata,
                    refresh=refresh,
                    where=inputs.where,
                )
                found = resolve(wanted, self._sources, scratch, self._progress)
                unknown = [
                    one
                    for one in found
                    if one.name in inputs.from_source and (one.name, one.version) not in self._known
                ]
                if not unknown:
                    return found
                for one in unknown:
                    self._learn(one)
        raise BuildError("packages from source ask for each other in circles", "ask for one version of each")

    def _learn(self, found: Found) -> None:
        """Builds a package from source: only then it is known what it asks for."""
        (file,) = found.files
        digest, sdist = self._store.add(file)
        arguments = (self._sources, self._cache, self._progress)
        source = self._old.get(found.name)
        if source is None or source.sdist != digest or not source.tools.get(host_arch().name):
            source = prepare(self._inputs, found.name, found.version, sdist, *arguments)
        built = Built(self._inputs, found.name, found.version, source)
        wheel = built_wheel(built, self._arch_to_build(), None, *arguments)
        self._known[found.name, found.version] = (source, wheel)

    def _arch_to_build(self) -> Arch:
        own = host_arch()
        return own if own in self._inputs.arches else self._inputs.arches[0]

    def _pin(self, found: Found, arch: Arch) -> Pin:
        if found.name not in self._inputs.from_source:
            return Pin(found.name, found.version, (self._store.hash_of(found),))
        source, _ = self._known[found.name, found.version]
        built = Built(self._inputs, found.name, found.version, source)
        wheel = built_wheel(built, arch, None, self._sources, self._cache, self._progress)
        digest, _ = self._store.add(File(wheel.absolute().as_uri(), None, True))
        return Pin(found.name, found.version, tuple(sorted({source.sdist, digest})))


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all; one that has the same text already stays as it is."""
    try:
        if path.is_file() and path.read_bytes() == text.encode():
            return
        with whole_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise BuildError(f"{path}: not written: {error.strerror}", room_hint(error)) from error


def _old(path: Path) -> Parsed | None:
    """What is locked now; None where there is no lock file, or none that can be read."""
    try:
        return parse(path.read_bytes().decode())
    except (OSError, ValueError):
        return None
