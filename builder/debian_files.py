"""Which Debian package has a shared library, and the line for config.yaml that mends a missing one."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from builder.apt import open_lists, reason
from builder.arch import Arch
from builder.errors import BuildError, MissingLibrary, printable
from builder.progress import Progress
from builder.whole_file import whole_file

MAX_AGE_S = 7 * 24 * 3600
"""Which package has a library seldom changes within a release."""

_FORMAT = 1
"""Counts up when what lies in the cache means something else."""

_GZIP = b"\x1f\x8b"
_PACKAGE_FOLDER = re.compile(r"^(.*/(?:site|dist)-packages)/")


def packages_with(
    sonames: Sequence[str], suite: str, arch: Arch, *, mirror: str | None, cache: Path, progress: Progress
) -> dict[str, str]:
    """For each of `sonames` that the suite has: the package. Asks Debian at most once a week.

    From Debian's index of files, which apt checks by Debian's signature. Where a mirror has none that fits
    its signed list: by the names that Debian's policy (8.1) gives to packages of libraries, if they exist.
    ToolMissing without mmdebstrap, BuildError where Debian is out of reach.
    """
    what = f"debian:{suite} for {arch.name}"
    facts = hashlib.sha256(json.dumps([_FORMAT, mirror]).encode()).hexdigest()[:16]
    entry = cache / "debian-files" / f"{suite}-{arch.name}-{facts}.json"
    index = _known(entry)
    if index is None:
        with progress.step(f"{what}: looking up which packages have {', '.join(sonames)}"):
            try:
                with open_lists(suite, arch, mirror, progress, options=_contents(arch)) as lists:
                    index = read_contents(_lines(lists.folder, f"Contents-{arch.name}"), arch)
            except BuildError as error:
                if "Contents" not in reason(error):
                    raise
                progress.warn(f"{what}: no index of files: {reason(error)}")
                index = {}
            if index:
                _store(entry, index)
            else:
                with open_lists(suite, arch, mirror, progress) as lists:
                    lines = _lines(lists.folder, "Packages")
                    names = {line[9:].strip() for line in lines if line[:9] == "Package: "}
                return {name: found for name in sonames if (found := by_policy(name, names))}
    return {name: index[name] for name in sonames if name in index}


def read_contents(lines: Iterable[str], arch: Arch) -> dict[str, str]:
    """Soname -> package, of the lines of a Contents file: `usr/lib/.../libz.so.1    libs/zlib1g,...`.

    Of libraries that the loader would find, or that an alternative leads to. Of several packages: one that
    has it right in a folder of the loader, of the section libs, with the shortest name.
    """
    triplet = re.escape(arch.triplet)
    plain = re.compile(rf"(?:usr/)?lib/(?:{triplet}/)?(?P<name>lib[^/\s]+\.so[^/\s]*)\s+(?P<packages>\S+)\s*")
    chosen = re.compile(
        rf"usr/lib/{triplet}/(?:blas|lapack|atlas|openblas-\w+)/(?P<name>lib[^/\s]+\.so[^/\s]*)\s+(?P<packages>\S+)\s*"
    )
    best: dict[str, tuple[bool, bool, int, str]] = {}
    for line in lines:
        if ".so" not in line:
            continue
        found = plain.fullmatch(line) or chosen.fullmatch(line)
        if found is None:
            continue
        for one in found["packages"].split(","):
            section, _, package = one.rpartition("/")
            if package.endswith(("-dev", "-dbg", "-dbgsym")):
                continue
            rank = (found.re is chosen, section != "libs", len(package), package)
            best[found["name"]] = min(rank, best.get(found["name"], rank))
    return {name: best[name][3] for name in sorted(best)}


def by_policy(soname: str, packages: frozenset[str] | set[str]) -> str | None:
    """The package that Debian's policy (8.1) names after `soname`, if it exists; t64: with 64-bit times."""
    name = re.sub(r"([0-9])\.so\.", r"\1-", soname)
    name = re.sub(r"\.so(\.|$)", "", name).replace("_", "-").lower()
    bare = re.sub(r"-(?=[0-9.]+-)", "", name, count=1)
    for candidate in dict.fromkeys((name, bare)):
        for suffix in ("", "t64"):
            if candidate + suffix in packages:
                return candidate + suffix
    return None


def hint_for(
    missing: Sequence[MissingLibrary],
    base_kind: str,
    base_name: str,
    packages: Mapping[str, str],
    have: Sequence[str] = (),
) -> str:
    """What mends the lack, as it goes into config.yaml or into the base's Dockerfile.

    `base_kind` and `base_name` as of a parsed `base:`, `packages` from packages_with, `have` the config's own
    base_packages.
    """
    absent = {one.soname: one for one in missing if one.version is None}
    places = {name: one.places[0] for name, one in absent.items() if one.places}
    wanted = sorted({packages[name] for name in absent if name in packages and name not in places})
    lost = sorted(name for name in absent if name not in places and name not in packages)
    parts = []
    if wanted and base_kind == "debian":
        parts.append(f"base_packages: [{', '.join(sorted({*have, *wanted}))}]")
    elif wanted:
        install = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(wanted)}"
        parts.append(install if base_kind == "host" else f"RUN {install}, in the Dockerfile of {base_name}")
    if places:
        # A list takes the place of the base's own packages, so theirs must be in it.
        sites = {found[1] for one in absent.values() if (found := _PACKAGE_FOLDER.match(one.chain[0]))}
        parts.append(f"python_lib_path: [{', '.join((*sorted(sites), *sorted(set(places.values()))))}]")
    if lost:
        parts.append(
            f"optional_libraries: [{', '.join(lost)}], if nothing ever loads {_who(absent[lost[0]])}"
        )
    for one in missing:
        if one.version is not None:
            parts.append(f"{one.version}: a newer base, or an older version of what has {_who(one)}")
            break
    return printable("; ".join(parts))


def _who(missing: MissingLibrary) -> str:
    return missing.chain[0] if missing.chain else missing.soname


def _contents(arch: Arch) -> dict[str, str]:
    """apt's settings that have it fetch the index of files too."""
    options = {
        # Not $(ARCHITECTURE): that would be Contents-all too, which has no libraries and is the larger one.
        "MetaKey": f"$(COMPONENT)/Contents-{arch.name}",
        "ShortDescription": "Contents",
        "Description": "$(RELEASE)/$(COMPONENT) Contents",
        "KeepCompressed": "true",
        "KeepCompressedAs": "gz",
    }
    return {f"Acquire::IndexTargets::deb::Contents-deb::{key}": value for key, value in options.items()}


def _lines(lists: Path, name: str) -> Iterator[str]:
    """The lines of every list whose name ends so, or so with .gz."""
    for path in sorted(lists.iterdir()):
        if path.name.endswith((name, f"{name}.gz")):
            with path.open("rb") as file:
                is_packed = file.read(len(_GZIP)) == _GZIP
            opener = gzip.open if is_packed else open
            with opener(path, "rt", encoding="utf-8", errors="replace") as text:
                yield from text


def _known(entry: Path) -> dict[str, str] | None:
    """What the cache has, if it is young enough and whole."""
    try:
        if not 0 <= time.time() - entry.stat().st_mtime < MAX_AGE_S:
            return None
        return {str(name): str(package) for name, package in json.loads(entry.read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return None


def _store(entry: Path, index: Mapping[str, str]) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(entry, mode=0o600) as file:
            file.write(json.dumps(index, sort_keys=True).encode())
    except OSError as error:
        raise BuildError(
            f"cache {error.filename or entry}: {error.strerror}", "XDG_CACHE_HOME names another folder for it"
        ) from None
