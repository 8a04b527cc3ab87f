"""The lock file: what is written is read back, and what is of another config is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from builder.arch import ARCHES
from builder.errors import ConfigError
from builder.packages import install
from builder.packages.inputs import Inputs
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
