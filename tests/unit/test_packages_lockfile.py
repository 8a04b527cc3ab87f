"""The lock file: what is written is read back, and what is of another config is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from builder.arch import ARCHES
from builder.base import DebianPackage, Selection
from builder.errors import ConfigError
from builder.packages import install
from builder.packages.inputs import DebianInputs, Inputs
from builder.packages.lockfile import Lock, Pin, Source, parse, read_lock, render

A, B, C, D = (letter * 64 for letter in "abcd")
INPUTS = Inputs(
    requirements=("numpy", "six ; python_version < '4'"),
    constraints=("x<2",),
    from_source={"jieba": ("gcc", "libc6-dev")},
    arches=tuple(ARCHES.values()),
    python_version="3.13",
    index="https://user:secret@host/simple",
)
LOCK = Lock(
    INPUTS,
    {
        "amd64": (
            Pin("jieba", "1", (A, B)),
            Pin("numpy", "2", (C,)),
            Pin("only", "1", (D,)),
            Pin("six", "1", (D,)),
        ),
        "arm64": (Pin("jieba", "1", (A, B)), Pin("numpy", "1.9", (A,)), Pin("six", "1", (D,))),
    },
    {"jieba": Source(A, {"amd64": (Pin("setuptools", "80", (B,)),)})},
)


def test_a_lock_is_read_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.lock").write_text(render(LOCK))
    assert read_lock(tmp_path / "config.lock", INPUTS) == LOCK


def test_pins_are_merged() -> None:
    """Equal ones stand once, others with a marker; every line is a requirement that other tools read."""
    body = render(LOCK).partition("\n\n")[2].replace(" \\\n   ", "").splitlines()
    assert body == [
        f"jieba==1 --hash=sha256:{A} --hash=sha256:{B}",
        f"numpy==2 ; platform_machine == 'x86_64' --hash=sha256:{C}",
        f"numpy==1.9 ; platform_machine == 'aarch64' --hash=sha256:{A}",
        f"only==1 ; platform_machine == 'x86_64' --hash=sha256:{D}",
        f"six==1 --hash=sha256:{D}",
    ]
    for line in body:
        Requirement(line.partition(" --hash")[0])


def test_a_lock_for_one_architecture_has_no_markers() -> None:
    text = render(replace(LOCK, pins={"arm64": LOCK.pins["arm64"]}))
    assert "platform_machine" not in text.partition("\n\n")[2]
    assert set(parse(text).pins) == {"arm64"}


def test_tools_of_one_architecture_are_not_taken_for_another() -> None:
    """What builds on amd64 machines says nothing about arm64 ones."""
    assert parse(render(LOCK)).sources["jieba"].tools == {
        "amd64": (Pin("setuptools", "80", (B,)),),
    }


def test_no_index_and_no_password_is_in_it() -> None:
    assert "host" not in render(LOCK)
    assert "secret" not in render(LOCK)


def disagreements(path: Path, text: str, **changes: object) -> list[tuple[str, str | None]]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_lock(path, replace(INPUTS, **changes))  # type: ignore[arg-type]
    return caught.value.problems


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"python_version": "3.12"}, "locked for Python 3.13, but the base has 3.12"),
        (
            {"requirements": ("numpy",)},
            "requirement six ; python_version < '4' is locked, but no longer asked for",
        ),
        (
            {"requirements": (*INPUTS.requirements, "z>1")},
            "config and lock disagree: requirement z>1 is not locked",
        ),
        ({"constraints": ()}, "constraint x<2 is locked, but no longer asked for"),
        ({"from_source": {"jieba": ("gcc",)}}, "from_source jieba gcc is not locked"),
    ],
)
def test_what_disagrees_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    """And locking again is the hint."""
    ((said, hint),) = disagreements(tmp_path / "config.lock", render(LOCK), **changes)
    assert message in said
    assert hint == "sandbox-build lock"


def test_a_lock_without_an_architecture_is_refused(tmp_path: Path) -> None:
    text = render(replace(LOCK, pins={"amd64": LOCK.pins["amd64"]}))
    ((said, hint),) = disagreements(tmp_path / "config.lock", text)
    assert "not locked for arm64" in said
    assert hint == "sandbox-build lock --arch amd64 --arch arm64"
    assert read_lock(tmp_path / "config.lock", replace(INPUTS, arches=(ARCHES["amd64"],)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("numpy==2", "numpy>=2", "\"numpy>=2 ; platform_machine == 'x86_64'\" is no line that"),
        (f"--hash=sha256:{C}", "", "is no line that"),
        ("six==1", "<<<<<<< HEAD\nsix==1", "'<<<<<<< HEAD' is no line that"),
        ("six==1 \\", "six==2 \\\n    --hash=sha256:" + A + "\nsix==1 \\", "six is there twice for amd64"),
        ("#: format 1", "#: format 9", "it is of another format"),
        ("#: python 3.13\n", "", "its head is not whole"),
        ("#: arch amd64", "#: arch mips", "its head is not whole"),
        ("#: inputs sha256:", "#: inputs sha256:0", "its digest is not that of what it says"),
        ("#: sdist jieba ", "#: sdist other ", "no sdist for jieba"),
        ("#: sdist jieba ", "#: sdist other ", "an sdist of 'other', which is not built from source"),
        (f"#: sdist jieba {A}", "#: sdist jieba ../../..", "the sdist of 'jieba' has no SHA-256"),
        (f"#: sdist jieba {A}", f"#: sdist jieba {A.upper()}", "the sdist of 'jieba' has no SHA-256"),
        (
            f"#: sdist jieba {A}",
            f"#: sdist jieba {C}",
            "the sdist of 'jieba' is not among its hashes for amd64",
        ),
    ],
)
def test_a_damaged_lock_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = render(LOCK)
    assert old in text
    problems = disagreements(tmp_path / "config.lock", text.replace(old, new, 1))
    assert any(message in said for said, _ in problems), problems
    assert all(hint and "sandbox-build lock" in hint for _, hint in problems)


@pytest.mark.parametrize(
    "changed",
    [
        replace(LOCK, sources={"jieba": replace(LOCK.sources["jieba"], sdist=B)}),
        replace(LOCK, sources={"jieba": Source(A, {"amd64": (Pin("setuptools", "80", (C,)),)})}),
        replace(LOCK, inputs=replace(INPUTS, from_source={"jieba": ("gcc",)})),
        replace(LOCK, inputs=replace(INPUTS, requirements=("numpy",))),
    ],
)
def test_what_is_built_from_is_in_the_name_of_what_is_installed(changed: Lock) -> None:
    """The same pins alone are not the same packages: the cache must not give one for the other."""
    arch = ARCHES["amd64"]
    assert install._key(replace(LOCK), arch) == install._key(LOCK, arch)
    assert install._key(changed, arch) != install._key(LOCK, arch)


def test_no_lock_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the packages are not locked yet") as caught:
        read_lock(tmp_path / "config.lock", INPUTS)
    assert caught.value.problems[0][1] == "sandbox-build lock"


def libc(arch: str) -> DebianPackage:
    path = f"pool/main/g/glibc/libc6_2.41-12_{arch}.deb"
    return DebianPackage("libc6", "2.41-12", arch, "glibc", A, 2_850_108, path)


NETBASE = DebianPackage(
    "netbase", "6.5", "all", "netbase", B, 12436, "pool/main/n/netbase/netbase_6.5_all.deb"
)
DEBIAN_INPUTS = replace(INPUTS, debian=DebianInputs("debian:trixie", ("libgomp1", "netbase"), "auto"))
DEBIAN_LOCK = replace(
    LOCK,
    inputs=DEBIAN_INPUTS,
    debian={
        arch: Selection((libc(arch), NETBASE), f"20250{number}01T000000Z")
        for number, arch in enumerate(ARCHES, 3)
    },
)


def test_debian_packages_are_lines_of_their_own(tmp_path: Path) -> None:
    """Sorted, one a line, with what they were chosen for; read back as they were."""
    text = render(DEBIAN_LOCK)
    assert [line for line in text.splitlines() if line not in render(LOCK).splitlines()] == [
        "#: base debian:trixie",
        "#: base-package libgomp1",
        "#: base-package netbase",
        "#: libraries auto",
        "#: debian-published amd64 20250301T000000Z",
        f"#: debian amd64 {libc('amd64')}",
        f"#: debian amd64 netbase 6.5 all netbase {B} 12436 pool/main/n/netbase/netbase_6.5_all.deb",
        "#: debian-published arm64 20250401T000000Z",
        f"#: debian arm64 libc6 2.41-12 arm64 glibc {A} 2850108 pool/main/g/glibc/libc6_2.41-12_arm64.deb",
        f"#: debian arm64 {NETBASE}",
    ]
    (tmp_path / "config.lock").write_text(text)
    assert read_lock(tmp_path / "config.lock", DEBIAN_INPUTS) == DEBIAN_LOCK


def test_a_lock_without_debian_packages_is_a_lock(tmp_path: Path) -> None:
    """Of any base: whoever locked before we did that need not lock again."""
    (tmp_path / "config.lock").write_text(render(LOCK))
    assert read_lock(tmp_path / "config.lock", DEBIAN_INPUTS).debian == {}


@pytest.mark.parametrize(
    ("debian", "message"),
    [
        (None, "base debian:trixie is locked, but no longer asked for"),
        (
            DebianInputs("debian:bookworm", ("libgomp1", "netbase"), "auto"),
            "base debian:bookworm is not locked",
        ),
        (
            DebianInputs("debian:trixie", ("libgl1", "libgomp1", "netbase"), "auto"),
            "base_package libgl1 is not",
        ),
        (
            DebianInputs("debian:trixie", ("netbase",), "auto"),
            "base_package libgomp1 is locked, but no longer",
        ),
        (DebianInputs("debian:trixie", ("libgomp1", "netbase"), "strict"), "libraries strict is not locked"),
    ],
)
def test_debian_packages_of_another_base_are_refused(
    tmp_path: Path, debian: DebianInputs | None, message: str
) -> None:
    ((said, hint),) = disagreements(tmp_path / "config.lock", render(DEBIAN_LOCK), debian=debian)
    assert "config and lock disagree" in said
    assert message in said
    assert hint == "sandbox-build lock"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("libc6 2.41-12 amd64", "libc6 2.41-12 arm64", "libc6 is for arm64"),
        ("libc6 2.41-12 amd64", "libc6 2.41 12 amd64", "has not 7 words"),
        ("libc6 2.41-12 amd64", "libc6 two amd64", "'two' is no version"),
        ("libc6 2.41-12 amd64", "netbase 2.41-12 amd64", "netbase is there twice"),
        ("libc6 2.41-12 amd64", "--libc6 2.41-12 amd64", "'--libc6' is no name"),
        (" 2850108 ", " 02850108 ", "'02850108' is no size"),
        (f" {A} ", f" {A[:-1]} ", "is no sha256"),
        (f" {A} ", f" {A.upper()} ", "is no sha256"),
        (" pool/main/g", " /pool/main/g", "is no path"),
        (" pool/main/g", " pool/../main/g", "is no path"),
        (" pool/main/g", " http://host/pool/main/g", "is no path"),
        ("_amd64.deb", "_amd64.tar", "is no path"),
        ("debian amd64 libc6", "debian mips libc6", "'mips' is not an architecture that is locked"),
        ("amd64 20250301T000000Z", "amd64 20250301T250000Z", "'20250301T250000Z' is no date"),
        ("#: debian-published arm64", "#: debian-published amd64", "is no date, or the second one"),
    ],
)
def test_a_damaged_line_of_a_debian_package_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    """By its number."""
    text = render(DEBIAN_LOCK)
    assert old in text
    changed = text.replace(old, new, 1)
    same = zip(text.splitlines(), changed.splitlines(), strict=True)
    number = next(number for number, (a, b) in enumerate(same, 1) if a != b)
    ((said, hint),) = disagreements(tmp_path / "config.lock", changed, debian=DEBIAN_INPUTS.debian)
    assert message in said
    assert f"line {number if 'twice' not in message else number + 1}: #: debian" in said
    assert hint is not None
    assert "sandbox-build lock" in hint


def test_either_all_architectures_have_debian_packages_or_none(tmp_path: Path) -> None:
    lines = [line for line in render(DEBIAN_LOCK).splitlines(True) if not line.startswith("#: debian arm64")]
    ((said, _),) = disagreements(tmp_path / "config.lock", "".join(lines), debian=DEBIAN_INPUTS.debian)
    assert "the Debian packages for arm64 are not whole" in said
