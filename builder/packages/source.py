"""Packages that are built from source: their sdist in, a wheel out, and their code confined in between."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import BinaryIO

from packaging.requirements import Requirement
from packaging.version import Version

from builder.arch import Arch, host_arch
from builder.base.debian import DebianBase
from builder.bases import suite_with
from builder.errors import BuildError, ToolMissing
from builder.files_by_hash import sha256_of
from builder.packages.confine import FILE_BYTES, GIVEN, OUTPUT, run_confined
from builder.packages.fetch import Scratch, Store, Wanted
from builder.packages.index import Sources
from builder.packages.inputs import Inputs
from builder.packages.lockfile import Pin, Source
from builder.packages.names import identity, safe_name
from builder.packages.sdist import requirements_of, static_requires
from builder.packages.tags import best, fits
from builder.packages.unpack import unpack
from builder.packages.uv import Resolution, resolve
from builder.packages.wheel import read_metadata
from builder.progress import Progress
from builder.shelf import Shelf

TIMEOUT_S = 3600

_FORMAT = 2
"""Counts up when the same sdist comes to another wheel."""
_EPOCH = "315532800"
"""1980: the oldest date that a zip can have."""
_FRONTEND = "build"
_OTHER = "ask for another version"
_ESSENTIAL = (
    *("bash", "coreutils", "dash", "diffutils", "findutils", "grep", "gzip", "libc-bin", "perl-base", "sed"),
    *("tar", "util-linux"),
)
"""What every Debian package counts on without saying so (Debian policy, 3.8)."""
_REQUIRES_BYTES = 1 << 20
_NAME_BYTES = 256
_CHUNK_BYTES = 1 << 20
_NEEDS_HINT = (
    "if a program or a header is missing, name the Debian packages that have it: "
    "from_source: {{{name}: [gcc, libc6-dev, libpython3-dev]}}; or give a wheel of it with --wheelhouse"
)


@dataclass(frozen=True)
class Built:
    """What is to be built."""

    inputs: Inputs
    name: str
    version: str
    source: Source

    @property
    def python_version(self) -> str:
        """Of the interpreter that builds: the target's, where a suite of Debian has it."""
        return suite_with(self.inputs.python_version).python_path.rpartition("python")[2]

    @property
    def tools(self) -> tuple[Pin, ...]:
        """What the build needs on this machine."""
        tools = self.source.tools.get(host_arch().name)
        if not tools:
            raise BuildError(
                f"{self.name} {self.version}: its build is not locked for a machine of {host_arch().name}",
                "sandbox-build lock",
            )
        return tools

    @property
    def key(self) -> str:
        """What decides the wheel."""
        tools = [[pin.name, pin.version, list(pin.hashes)] for pin in self.tools]
        debian = [suite_with(self.inputs.python_version).name, *self.inputs.from_source[self.name]]
        facts = json.dumps(
            [_FORMAT, self.name, self.version, self.source.sdist, host_arch().name, debian, tools]
        )
        return hashlib.sha256(facts.encode()).hexdigest()


def built_wheel(
    built: Built,
    arch: Arch,
    hashes: Sequence[str] | None,
    sources: Sources,
    cache: Path,
    progress: Progress,
) -> Path:
    """The wheel of `built` for `arch`: one with a locked hash that is at hand, else built from the sdist.

    Without `hashes` (a lock is being made) any that the user's folder has is as good.
    """
    store = Store(cache, sources, built.inputs.python_version, progress)
    if hashes is None:
        at_hand = store.in_folder(built.name, built.version)
    else:
        wanted = [Wanted(built.name, built.version, digest) for digest in hashes]
        found = [store.at_hand(one) for one in wanted if one.sha256 != built.source.sdist]
        at_hand = [path for path in found if path is not None]
    if name := best([path.name for path in at_hand], built.inputs.python_version, arch):
        return next(path for path in at_hand if path.name == name)
    wheel = _build(built, sources, cache, progress)
    if not fits(wheel.name, built.inputs.python_version, arch):
        raise BuildError(
            f"{built.name} {built.version}: built on this machine it is {wheel.name}, which is not for "
            f"Python {built.inputs.python_version} on {arch.name}",
            f"build it on such a machine, put the wheel into a folder, and lock again with --wheelhouse: "
            f"`sandbox-build wheelhouse DIR --arch {arch.name}` there does it",
        )
    if hashes is not None and sha256_of(wheel) not in hashes:
        progress.note(f"{built.name} {built.version}: built anew, it is not to the byte what was locked")
    return wheel


def prepare(
    inputs: Inputs, name: str, version: str, sdist: Path, sources: Sources, cache: Path, progress: Progress
) -> Source:
    """What the build of an sdist takes, locked for each architecture that may build it."""
    digest = sha256_of(sdist)
    requires = [*static_requires(sdist), _FRONTEND]
    built = Built(inputs, name, version, Source(digest))

    def locked(requirements: Sequence[str]) -> Source:
        tools = {}
        for arch in {*inputs.arches, host_arch()}:
            wanted = Resolution(requirements, built.python_version, arch)
            try:
                found = resolve(wanted, sources, cache, progress)
            except BuildError as error:
                raise BuildError(
                    f"what {name} {version} needs to be built: {error.message}", error.hint
                ) from None
            store = Store(cache, sources, built.python_version, progress)
            tools[arch.name] = tuple(
                sorted(Pin(one.name, one.version, (store.hash_of(one),)) for one in found)
            )
        return Source(digest, tools)

    source = locked(requires)
    if Store(cache, sources, inputs.python_version, progress).in_folder(name, version):
        return source  # it has been built
    with _run(Built(inputs, name, version, source), sdist, "requires", sources, cache, progress) as output:
        try:
            more = json.loads(output.read(_REQUIRES_BYTES))
        except (ValueError, RecursionError):
            raise BuildError(f"{name} {version}: its build does not say what it needs", _OTHER) from None
    extra = requirements_of(more, name)
    have = {pin.name: pin.version for pin in source.tools[host_arch().name]}
    if all(_satisfied(Requirement(text), have) for text in extra):
        return source
    return locked([*requires, *extra])


def wheel_requires(wheel: Path) -> tuple[str, ...]:
    """The requirements that a wheel's metadata has."""
    return tuple(read_metadata(wheel).get_all("Requires-Dist", []))


def _build(built: Built, sources: Sources, cache: Path, progress: Progress) -> Path:
    def fill(work: Path) -> None:
        store = Store(cache, sources, built.inputs.python_version, progress)
        wanted = Wanted(built.name, built.version, built.source.sdist, is_wheel=False)
        sdist = store.get([wanted])[wanted.sha256]
        with (
            progress.step(f"building {built.name} {built.version} from source"),
            _run(built, sdist, "wheel", sources, cache, progress) as output,
        ):
            # What comes out of a build may be anything.
            filename = output.readline(_NAME_BYTES).removesuffix(b"\n").decode(errors="replace")
            if identity(filename) != (built.name, Version(built.version), True):
                raise BuildError(f"{built.name} {built.version}: its build made {filename!r}", _OTHER)
            with (work / safe_name(filename)).open("wb") as wheel:
                while chunk := output.read(_CHUNK_BYTES):
                    wheel.write(chunk)

    return next(Shelf(cache, "built", progress).open(built.key, fill).glob("*.whl"))


@contextmanager
def _run(
    built: Built,
    sdist: Path,
    what: str,
    sources: Sources,
    cache: Path,
    progress: Progress,
) -> Iterator[BinaryIO]:
    """Runs inside.py in a confined place, and opens what it leaves: of no more than FILE_BYTES."""
    suite = suite_with(built.inputs.python_version)
    debian = built.inputs.from_source[built.name]
    base = DebianBase(
        suite.name,
        mirror=built.inputs.base_mirror,
        cache=cache,
        refresh=False,
        progress=progress,
        packages=(*debian, *_ESSENTIAL) if debian else (),
    )
    root = base.build_rootfs().directory
    tools = _tools(built, suite.python_path, sources, cache, progress)
    with Scratch(cache) as folder:
        given = folder / "in"
        given.mkdir()
        shutil.copyfile(sdist, given / sdist.name)
        program = resources.files("builder.packages").joinpath("inside.py").read_bytes()
        (given / "inside.py").write_bytes(program)
        (given / "tools").mkdir()
        _open_to_all(given)
        command = [suite.python_path, f"{GIVEN}/inside.py", what, f"{GIVEN}/{sdist.name}", OUTPUT]
        try:
            run_confined(
                root.absolute(),
                command,
                given=given,
                tools=tools,
                output=folder / "out",
                env=_environment(),
                timeout_s=TIMEOUT_S,
                progress=progress,
            )
        except ToolMissing:
            raise
        except BuildError as error:
            raise BuildError(
                f"{built.name} {built.version} cannot be built from source: {error.message}",
                _NEEDS_HINT.format(name=built.name),
            ) from None
        if (folder / "out").stat().st_size > FILE_BYTES:
            raise BuildError(f"{built.name} {built.version}: what its build made is too large", _OTHER)
        with (folder / "out").open("rb") as output:
            yield output


def _tools(built: Built, python_path: str, sources: Sources, cache: Path, progress: Progress) -> Path:
    """The folder with what the build needs in Python packages, for this machine."""

    def fill(work: Path) -> None:
        store = Store(cache, sources, built.python_version, progress)
        wanted = [Wanted(pin.name, pin.version, pin.hashes[0]) for pin in built.tools]
        wheels = store.get(wanted)
        files = {wheels[one.sha256]: one.sha256 for one in wanted}
        unpack(files, work / "tools", built.python_version, host_arch(), progress, programs=python_path)

    facts = [_FORMAT, host_arch().name, python_path, [list(pin.hashes) for pin in built.tools]]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return Shelf(cache, "tools", progress).open(key, fill) / "tools"


def _environment() -> Mapping[str, str]:
    return {
        "PATH": f"{GIVEN}/tools/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/tmp/work",  # noqa: S108 - in there
        "TMPDIR": "/tmp/work",  # noqa: S108 - in there
        "PYTHONPATH": f"{GIVEN}/tools",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": _EPOCH,
    }


def _open_to_all(folder: Path) -> None:
    """Lets the unprivileged uid read what lies in `folder`, whatever our umask is."""
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _satisfied(requirement: Requirement, have: Mapping[str, str]) -> bool:
    from packaging.utils import canonicalize_name

    if requirement.marker and not requirement.marker.evaluate():
        return True
    version = have.get(canonicalize_name(requirement.name))
    return version is not None and not requirement.extras and requirement.specifier.contains(version, True)
