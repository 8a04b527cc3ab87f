"""Which files of a registry's cache are a lock's: by their hash, under a name that is theirs."""

from __future__ import annotations

import pytest

from builder.arch import ARCHES
from builder.base import DebianPackage, Selection
from builder.packages import Inputs, Lock, Pin
from builder.packages.lockfile import Source
from builder.registry.cache import Listed
from builder.registry_cache import locked_files, shared_of

AMD64, ARM64 = ARCHES["amd64"], ARCHES["arm64"]
DEB, OTHER_DEB, WHEEL, SDIST, BUILT, TOOL, OTHER_TOOL = (digit * 64 for digit in "1234567")


def debian(sha256: str, arch: str) -> Selection:
    path = f"pool/main/o/one/one_1%3a1.0_{arch}.deb"
    return Selection((DebianPackage("one", "1:1.0", arch, "one", sha256, 9, path),), "20250301T000000Z")


LOCK = Lock(
    Inputs(("a-wheel", "built"), (), {"built": ()}, (AMD64, ARM64), "3.13"),
    {
        "amd64": (Pin("a-wheel", "1.0", (WHEEL,)), Pin("built", "2.0", (SDIST, BUILT))),
        "arm64": (Pin("a-wheel", "1.0", (WHEEL,)),),
    },
    {
        "built": Source(
            SDIST, {"amd64": (Pin("tool", "3", (TOOL,)),), "arm64": (Pin("tool", "3", (OTHER_TOOL,)),)}
        )
    },
    {"amd64": debian(DEB, "amd64"), "arm64": debian(OTHER_DEB, "arm64")},
)


def test_what_is_locked() -> None:
    """For the chosen architectures, each file once, and the tools of the machine that builds."""
    shelves = {file.sha256: file.shelf for file in locked_files(LOCK, [AMD64], AMD64)}
    assert shelves == dict.fromkeys((WHEEL, SDIST, BUILT, TOOL), "wheels") | {DEB: "debs"}
    both = [file.sha256 for file in locked_files(LOCK, [AMD64, ARM64], ARM64)]
    assert sorted(both) == sorted((DEB, OTHER_DEB, WHEEL, SDIST, BUILT, OTHER_TOOL))


@pytest.mark.parametrize(
    ("sha256", "listed", "name"),
    [
        (WHEEL, "A_Wheel-1.0-py3-none-any.whl", "A_Wheel-1.0-py3-none-any.whl"),
        (WHEEL, "a_wheel-1.1-py3-none-any.whl", None),
        (WHEEL, "other-1.0-py3-none-any.whl", None),
        (WHEEL, "a_wheel-1.0.tar.gz", None),
        (WHEEL, "one_1.0_amd64.deb", None),
        (SDIST, "built-2.0.tar.gz", "built-2.0.tar.gz"),
        (SDIST, "built-2.0-py3-none-any.whl", None),
        (BUILT, "built-2.0-py3-none-any.whl", "built-2.0-py3-none-any.whl"),
        (TOOL, "tool-3-py3-none-any.whl", "tool-3-py3-none-any.whl"),
        (DEB, "whatever", "one_1%3a1.0_amd64.deb"),
        (OTHER_DEB, "one_1%3a1.0_arm64.deb", None),
        ("8" * 64, "a_wheel-1.0-py3-none-any.whl", None),
    ],
)
def test_names(sha256: str, listed: str, name: str | None) -> None:
    """A .deb has the name that is locked; a wheel's has to say what is locked under its hash."""
    shared = shared_of(locked_files(LOCK, [AMD64], AMD64), {sha256: Listed(listed, 9)})
    assert [one.name for one in shared] == ([name] if name else [])


def test_sizes() -> None:
    """What passes through memory is of a size that it can hold."""
    files = locked_files(LOCK, [AMD64], AMD64)
    assert len(shared_of(files, {DEB: Listed("x", 1 << 30)})) == 1
    assert shared_of(files, {DEB: Listed("x", (1 << 30) + 1)}) == []
