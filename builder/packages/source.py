"""Packages that are built from source: their sdist in, a wheel out, and their code confined in between."""

from __future__ import annotations

import hashlib
import json
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import compat32
from importlib import resources
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from builder.arch import Arch, host_arch
from builder.base.debian import DebianBase
from builder.bases import suite_with
from builder.errors import BuildError, ToolMissing
from builder.packages.confine import GIVEN, OUTPUT, run_confined
from builder.packages.fetch import Scratch, Store, Wanted, identity, safe_name
from builder.packages.index import Sources
from builder.packages.inputs import Inputs
from builder.packages.lockfile import Pin, Source
from builder.packages.shelf import Shelf
from builder.packages.tags import best, fits
from builder.packages.unpack import unpack
from builder.packages.uv import Resolution, resolve
from builder.progress import Progress

TIMEOUT_S = 3600

_FORMAT = 1
"""Counts up when the same sdist comes to another wheel."""
_EPOCH = "315532800"
"""1980: the oldest date that a zip can have."""
_DEFAULT_REQUIRES = ("setuptools>=40.8.0",)
"""Of a project that does not say what builds it (PEP 518; as pip and build have it)."""
_FRONTEND = "build"
_ESSENTIAL = (
    *("bash", "coreutils", "dash", "diffutils", "findutils", "grep", "gzip", "libc-bin", "perl-base", "sed"),
    *("tar", "util-linux"),
)
"""What every Debian package counts on without saying so (Debian policy, 3.8)."""
_PYPROJECT_LIMIT = 1 << 20
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
        facts = json.dumps([_FORMAT, self.source.sdist, host_arch().name, debian, tools])
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
    if hashes is not None and _sha256(wheel) not in hashes:
        progress.note(f"{built.name} {built.version}: built anew, it is not to the byte what was locked")
    return wheel


def prepare(
    inputs: Inputs, name: str, version: str, sdist: Path, sources: Sources, cache: Path, progress: Progress
) -> Source:
    """What the build of an sdist takes, locked for each architecture that may build it."""
    digest = _sha256(sdist)
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
    more = _run(Built(inputs, name, version, source), sdist, "requires", sources, cache, progress)
    extra = _requirements(json.loads(more), name)
    have = {pin.name: pin.version for pin in source.tools[host_arch().name]}
    if all(_satisfied(Requirement(text), have) for text in extra):
        return source
    return locked([*requires, *extra])


def static_requires(sdist: Path) -> list[str]:
    """What pyproject.toml says that the build needs."""
    text = _member(sdist, "pyproject.toml")
    if text is None:
        return list(_DEFAULT_REQUIRES)
    try:
        system = tomllib.loads(text.decode()).get("build-system", {})
        requires = system.get("requires", list(_DEFAULT_REQUIRES))
    except (ValueError, AttributeError):
        raise BuildError(
            f"{sdist.name}: its pyproject.toml cannot be read", "ask for another version"
        ) from None
    return _requirements(requires, sdist.name)


def wheel_requires(wheel: Path) -> tuple[str, ...]:
    """The requirements that a wheel's metadata has."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA") and n.count("/") == 1)
        metadata = BytesParser(policy=compat32).parsebytes(archive.read(name), headersonly=True)
    return tuple(metadata.get_all("Requires-Dist", []))


def _build(built: Built, sources: Sources, cache: Path, progress: Progress) -> Path:
    def fill(work: Path) -> None:
        store = Store(cache, sources, built.inputs.python_version, progress)
        wanted = Wanted(built.name, built.version, built.source.sdist, is_wheel=False)
        sdist = store.get([wanted])[wanted.sha256]
        with progress.step(f"building {built.name} {built.version} from source"):
            name, _, content = _run(built, sdist, "wheel", sources, cache, progress).partition(b"\n")
        filename = name[:256].decode(errors="replace")
        # What comes out of a build may be anything.
        if identity(filename) != (built.name, Version(built.version), True):
            raise BuildError(
                f"{built.name} {built.version}: its build made {filename!r}", "ask for another version"
            )
        (work / safe_name(filename)).write_bytes(content)

    return next(Shelf(cache, "built", progress).open(built.key, fill).glob("*.whl"))


def _run(
    built: Built,
    sdist: Path,
    what: str,
    sources: Sources,
    cache: Path,
    progress: Progress,
) -> bytes:
    """Runs inside.py in a confined place, and returns what it leaves."""
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
        (given / sdist.name).write_bytes(sdist.read_bytes())
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
        return (folder / "out").read_bytes()


def _tools(built: Built, python_path: str, sources: Sources, cache: Path, progress: Progress) -> Path:
    """The folder with what the build needs in Python packages, for this machine."""

    def fill(work: Path) -> None:
        store = Store(cache, sources, built.python_version, progress)
        wanted = [Wanted(pin.name, pin.version, pin.hashes[0]) for pin in built.tools]
        wheels = store.get(wanted)
        files = [wheels[one.sha256] for one in wanted]
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


def _member(sdist: Path, name: str) -> bytes | None:
    """A file at the top of the sdist's project; None where there is none."""
    try:
        if sdist.suffix == ".zip":
            with zipfile.ZipFile(sdist) as archive:
                members = [one for one in archive.infolist() if _is_top(one.filename, name)]
                return archive.open(members[0]).read(_PYPROJECT_LIMIT) if members else None
        with tarfile.open(sdist) as tar:
            for entry in tar:
                if _is_top(entry.name, name) and entry.isreg():
                    file = tar.extractfile(entry)
                    return file.read(_PYPROJECT_LIMIT) if file else None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise BuildError(f"{sdist.name}: it is no whole sdist: {error}", "ask for another version") from None
    return None


def _is_top(path: str, name: str) -> bool:
    return path.removeprefix("./").split("/")[1:] == [name]


def _requirements(texts: object, whose: str) -> list[str]:
    """Requirements that a package's code or files gave; BuildError for what cannot be locked."""
    found = []
    for text in texts if isinstance(texts, list) else [texts]:
        try:
            requirement = Requirement(str(text))
        except (InvalidRequirement, TypeError):
            raise BuildError(
                f"{whose}: {str(text)[:100]!r} is no requirement", "ask for another version"
            ) from None
        if requirement.url:
            raise BuildError(
                f"{whose}: {requirement.name} from a URL cannot be locked", "ask for another version"
            )
        found.append(str(requirement))
    return found


def _satisfied(requirement: Requirement, have: Mapping[str, str]) -> bool:
    from packaging.utils import canonicalize_name

    if requirement.marker and not requirement.marker.evaluate():
        return True
    version = have.get(canonicalize_name(requirement.name))
    return version is not None and not requirement.extras and requirement.specifier.contains(version, True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
