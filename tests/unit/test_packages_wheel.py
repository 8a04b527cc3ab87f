"""Hostile wheels are refused before anything of them is unpacked."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.arch import ARCHES
from builder.errors import BuildError
from builder.packages.tags import best, fits
from builder.packages.wheel import overlaps, read_wheel
from tests.wheels import Entry, sha256_of, wheel

LINK = stat.S_IFLNK | 0o777


def refusal(path: Path) -> str:
    with pytest.raises(BuildError) as caught:
        read_wheel(path)
    assert path.name in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../evil.py": b""}, "'../evil.py' leads out"),
        ({"a/../../evil.py": b""}, "'a/../../evil.py' leads out"),
        ({"/tmp/evil.py": b""}, "'/tmp/evil.py' leads out"),
        ({"a-1.0.data/data/../../evil": b""}, "leads out"),
        ({"..\\evil.py": b""}, "is no normal path"),
        ({"a//b.py": b""}, "'a//b.py' is no normal path"),
        ({"./a.py": b""}, "'./a.py' is no normal path"),
        ({"a\n.py": b""}, "has a control character"),
        ({"link": Entry(b"/etc/passwd", LINK)}, "'link' is a symlink"),
        ({"d": Entry(b"/tmp", LINK), "d/evil": b""}, "'d' is a symlink"),
        ({"null": Entry(b"", stat.S_IFCHR | 0o666)}, "'null' is neither a file nor a folder"),
        ({"pipe": Entry(b"", stat.S_IFIFO | 0o666)}, "'pipe' is neither a file nor a folder"),
        ({"a": b"", "a/b.py": b""}, "'a' is a file, and a folder"),
        ({"a.py": b"1", "a-1.0.data/purelib/a.py": b"2"}, "would lie where another one does"),
        ({"a-1.0.data/cave/x": b""}, "belongs nowhere"),
        ({"b-1.0.dist-info/METADATA": b""}, "2 dist-info folders"),
    ],
)
def test_entries_that_do_harm_are_refused(
    tmp_path: Path, files: Mapping[str, bytes | Entry], message: str
) -> None:
    """The message has the wheel's name and the entry's."""
    assert message in refusal(wheel(tmp_path, "a", files=files))


def test_a_record_that_lies_is_refused(tmp_path: Path) -> None:
    """By another hash, by naming too little, by naming too much."""
    files = {"a.py": b"1", "b.py": b"2"}
    other = wheel(tmp_path, "a", files=files, record={"b.py": sha256_of(b"3")})
    assert "'b.py' is not what its RECORD says" in refusal(other)
    weak = wheel(tmp_path, "a", files=files, record={"b.py": "md5=x"})
    assert "'b.py' is not what its RECORD says" in refusal(weak)
    assert "does not name its entry 'b.py'" in refusal(wheel(tmp_path, "a", files=files, unrecorded=["b.py"]))
    less = changed(
        wheel(tmp_path, "a", files=files), lambda name, content: None if name == "b.py" else content
    )
    assert "its RECORD names 'b.py', which it does not have" in refusal(less)
    none = changed(less, lambda name, content: None if name.endswith("RECORD") else content)
    assert "it has no RECORD" in refusal(none)


def changed(path: Path, change: object) -> Path:
    """The wheel, with each entry's content as `change` has it; None leaves it out."""
    assert callable(change)
    with zipfile.ZipFile(path) as archive:
        kept = [(one, change(one.filename, archive.read(one))) for one in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in kept:
            if content is not None:
                archive.writestr(entry, content)
    return path


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    """Said to be UTF-8 or not; a name that is UTF-8 and says so is good."""
    assert "é.py" in read_wheel(wheel(tmp_path, "good", files={"é.py": b""})).files
    path = wheel(tmp_path, "a", files={"n_XX.py": b""})
    path.write_bytes(path.read_bytes().replace(b"n_XX.py", b"n_\xff\xfe.py"))
    assert "is not said to be UTF-8" in refusal(path)
    path = wheel(tmp_path, "a", files={"é.py": b""})
    path.write_bytes(path.read_bytes().replace("é.py".encode(), b"\xff\xfe.py"))
    assert "name is not UTF-8" in refusal(path)


def test_an_entry_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path, "a")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a.py", b"second")
    assert "'a.py' is there twice" in refusal(path)


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_a_file_that_is_no_whole_wheel_is_refused(tmp_path: Path, cut: int) -> None:
    path = wheel(tmp_path, "a")
    path.write_bytes(path.read_bytes()[:cut])
    assert "it is no whole wheel" in refusal(path)


def test_a_damaged_entry_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path, "a", files={"a.bin": bytes(range(256)) * 9})
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    assert "it is no whole wheel" in refusal(path)


def test_what_is_kept_and_what_is_not(tmp_path: Path) -> None:
    """Programs are left out, and everything that Python would run at its start."""
    found = read_wheel(
        wheel(
            tmp_path,
            "a",
            files={
                "a.py": Entry(b"", stat.S_IFREG | 0o4755),
                "a.pth": b"import os",
                "sitecustomize.py": b"",
                "usercustomize/__init__.py": b"",
                "sub/sitecustomize.py": b"",
                "sub/a.pth": b"",
                "a-1.0.data/scripts/a": b"#!python",
                "a-1.0.data/data/share/a": b"",
                "a-1.0.data/headers/a.h": b"",
                "a-1.0.data/platlib/b.py": b"",
            },
        )
    )
    assert found.dropped == ("a-1.0.data/scripts/a", "a.pth", "sitecustomize.py", "usercustomize/__init__.py")
    kept = {name for name in found.files if ".dist-info/" not in name}
    assert kept == {"a.py", "b.py", "include/a/a.h", "share/a", "sub/a.pth", "sub/sitecustomize.py"}
    assert found.files["a.py"].executable


def test_two_wheels_may_share_a_file_only_if_it_is_the_same(tmp_path: Path) -> None:
    """Which of the two would be there is for chance to say; a file is no folder either."""
    first = read_wheel(wheel(tmp_path, "a", files={"ns/__init__.py": b"", "ns/x.py": b"a"}))
    second = read_wheel(wheel(tmp_path, "b", files={"ns/__init__.py": b"", "ns/y.py": b"b"}))
    third = read_wheel(wheel(tmp_path, "c", files={"ns/x.py": b"c"}))
    fourth = read_wheel(wheel(tmp_path, "d", files={"ns": b""}))
    assert list(overlaps([first, second])) == []
    (problem,) = overlaps([first, second, third])
    assert (
        problem == "a-1.0-py3-none-any.whl and c-1.0-py3-none-any.whl both have 'ns/x.py', and not the same"
    )
    assert "'ns' is a file in d-1.0-py3-none-any.whl, a folder in b-1.0" in next(overlaps([second, fourth]))


def test_the_best_wheel_is_the_one_for_the_platform() -> None:
    """Of those that can be used, the first in the order of tags; of the same, the newest build."""
    names = [
        "a-1-py3-none-any.whl",
        "a-1-cp313-cp313-manylinux_2_17_x86_64.whl",
        "a-1-1-cp313-cp313-manylinux_2_28_x86_64.whl",
        "a-1-2-cp313-cp313-manylinux_2_28_x86_64.whl",
        "a-1-cp313-cp313-manylinux_2_99_x86_64.whl",
        "a-1-cp313-cp313-musllinux_1_2_x86_64.whl",
        "a-1-cp39-abi3-manylinux2014_aarch64.whl",
        "a-1-cp314-cp314-manylinux_2_17_aarch64.whl",
    ]
    assert best(names, "3.13", ARCHES["amd64"]) == names[3]
    assert best(names, "3.13", ARCHES["arm64"]) == names[6]
    assert best(names, "3.12", ARCHES["amd64"]) == names[0]
    assert not fits(names[7], "3.13", ARCHES["arm64"])
