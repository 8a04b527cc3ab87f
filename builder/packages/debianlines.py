"""The lines of a lock file that say which Debian packages a base has: written, and read back strictly.

#: base debian:trixie
#: base-package libgomp1
#: libraries auto
#: debian-published amd64 20250301T000000Z
#: debian amd64 libc6 2.41-12 amd64 glibc SHA256 SIZE pool/main/g/glibc/libc6_2.41-12_amd64.deb
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from builder.base.debian_package import DebianPackage, Selection
from builder.packages.inputs import DebianInputs

KEYS = ("base", "base-package", "libraries")
"""Of the lines that say what the packages depend on."""

_PACKAGE, _PUBLISHED = "debian", "debian-published"
_TIMESTAMP = re.compile(
    r"20[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3])([0-5][0-9]){2}Z"
)


def facts(inputs: DebianInputs | None, selections: Mapping[str, Selection]) -> list[tuple[str, str]]:
    """The key and the value of each line, in order; none where no packages are locked."""
    if not selections:
        return []
    found = inputs_facts(inputs)
    for arch, selection in sorted(selections.items()):
        found.append((_PUBLISHED, f"{arch} {selection.published}"))
        found += [(_PACKAGE, f"{arch} {package}") for package in sorted(selection.packages)]
    return found


def inputs_facts(inputs: DebianInputs | None) -> list[tuple[str, str]]:
    """The same of the lines that say what the packages depend on."""
    if inputs is None:
        return []
    packages = [("base-package", name) for name in inputs.packages]
    return [("base", inputs.base), *packages, ("libraries", inputs.libraries)]


def parse(lines: Iterable[tuple[int, str, str]], arches: Sequence[str]) -> dict[str, Selection]:
    """Architecture -> its packages, of lines as (number, key, value); other keys are passed over.

    ValueError that names the line which `facts` would not have written. Either all of `arches` have packages,
    or none has.
    """
    packages: dict[str, dict[str, DebianPackage]] = {}
    published: dict[str, str] = {}
    for number, key, value in lines:
        arch, _, rest = value.partition(" ")
        if key not in (_PACKAGE, _PUBLISHED):
            continue
        try:
            if arch not in arches:
                raise ValueError(f"{arch[:80]!r} is not an architecture that is locked")
            if key == _PACKAGE:
                _add(DebianPackage.parse(rest), arch, packages.setdefault(arch, {}))
            elif arch in published or not _TIMESTAMP.fullmatch(rest):
                raise ValueError(f"{rest[:80]!r} is no date, or the second one")
            else:
                published[arch] = rest
        except ValueError as error:
            raise ValueError(f"line {number}: #: {key}: {error}") from None
    for arch in arches if packages or published else ():
        if arch not in packages or arch not in published:
            raise ValueError(f"the Debian packages for {arch} are not whole")
    return {
        arch: Selection(tuple(sorted(found.values())), published[arch]) for arch, found in packages.items()
    }


def _add(package: DebianPackage, arch: str, packages: dict[str, DebianPackage]) -> None:
    if package.architecture not in (arch, "all"):
        raise ValueError(f"{package.name} is for {package.architecture}")
    if packages.setdefault(package.name, package) is not package:
        raise ValueError(f"{package.name} is there twice")
