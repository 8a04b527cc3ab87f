"""Which wheels an image can use, by their names, and which of them is the best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.arch import Arch

GLIBC = 36
"""Minor version of the oldest glibc of our bases (bookworm): no wheel for a newer one is taken."""

_OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""Names from before PEP 600, by the minor version of glibc."""


def fits(filename: str, python_version: str, arch: Arch) -> bool:
    """Whether the wheel called `filename` can be used with this version of Python on `arch`."""
    return best([filename], python_version, arch) is not None


def best(filenames: Sequence[str], python_version: str, arch: Arch) -> str | None:
    """The wheel that an installer would take: of the first tag that any of them has, the newest build."""
    ranks = _ranks(python_version, arch)
    found = []
    for filename in filenames:
        try:
            _, _, build, tags = parse_wheel_filename(filename)
        except InvalidWheelFilename:
            continue
        usable = [ranks[tag] for tag in tags if tag in ranks]
        if usable:
            found.append((-min(usable), build, filename))
    return max(found)[2] if found else None


@cache
def _ranks(python_version: str, arch: Arch) -> dict[Tag, int]:
    major, minor = (int(part) for part in python_version.split("."))
    platforms = list(_platforms(arch))
    interpreter = f"cp{major}{minor}"
    tags = [
        *cpython_tags((major, minor), [interpreter], platforms),
        *compatible_tags((major, minor), interpreter, platforms),
    ]
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}


def _platforms(arch: Arch) -> Iterator[str]:
    for minor in range(GLIBC, 4, -1):
        yield f"manylinux_2_{minor}_{arch.machine}"
        if minor in _OLD_NAMES:
            yield f"{_OLD_NAMES[minor]}_{arch.machine}"
    yield f"linux_{arch.machine}"
