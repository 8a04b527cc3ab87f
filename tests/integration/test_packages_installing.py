"""What is installed of wheels that the tests make: the same bytes everywhere, and nothing hostile."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from tests.integration.wheelproject import ARM64, QUIET, Project, listing, native, refusal
from tests.wheels import Entry, wheel


def test_the_same_lock_comes_to_the_same_bytes(project: Project) -> None:
    """In another cache, at another time, under another umask, from another order of wheels."""
    native(project, "native")
    wheel(
        project.wheels,
        "a",
        files={"a.py": Entry(b"x", 0o100600), "run": Entry(b"", 0o104711), "a,b.txt": b""},
        scripts={"tool": "a:main"},
    )
    made = project.lock("a", "native")
    first = project.open(made)
    old = os.umask(0o077)
    try:
        second = project.open(made, cache=project.folder / "other")
    finally:
        os.umask(old)
    assert listing(first.directory) == listing(second.directory)
    assert first.tar.read_bytes() == second.tar.read_bytes()
    assert first.identity == second.identity
    modes = {name: mode for name, mode, _ in listing(first.directory)}
    assert modes["a.py"] == "-rw-r--r--"
    assert modes["run"] == "-rwxr-xr-x"
    names = set(modes)
    assert not any(name.startswith(("bin", ".")) for name in names)
    assert {name for name in names if name.startswith("a-1.0.dist-info/")} == {
        f"a-1.0.dist-info/{name}"
        for name in ("INSTALLER", "METADATA", "RECORD", "REQUESTED", "WHEEL", "entry_points.txt")
    }
    record = (first.directory / "a-1.0.dist-info/RECORD").read_text().splitlines()
    assert record == [*sorted(record[:-1]), "a-1.0.dist-info/RECORD,,"]
    assert '"a,b.txt",sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0' in record
    assert all(path.stat().st_nlink == 1 for path in first.directory.rglob("*") if path.is_file())


def test_nothing_of_a_package_runs(project: Project) -> None:
    """What Python would run at its start is not even there."""
    mark = project.folder / "ran"
    code = f"import os; open({str(mark)!r}, 'w')\n".encode()
    names = ("a.pth", "sitecustomize.py", "usercustomize.py", "a.py", "a-1.0.data/scripts/x")
    wheel(project.wheels, "a", files=dict.fromkeys(names, code), scripts={"y": "a:b"})
    opened = project.open(project.lock("a"))
    assert not mark.exists()
    assert [path.name for path in opened.directory.iterdir() if path.is_file()] == ["a.py"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.py": b"", "../evil.py": b""}, "its entry '../evil.py' leads out"),
        ({"a.py": b"", "link": Entry(b"/etc/passwd", stat.S_IFLNK | 0o777)}, "its entry 'link' is a symlink"),
    ],
)
def test_a_hostile_wheel_leaves_nothing(
    project: Project, files: dict[str, bytes | Entry], message: str
) -> None:
    """The wheels themselves are looked at in tests/unit; here the cache is."""
    wheel(project.wheels, "a", files=files)
    assert message in refusal(project, "a").message
    assert not [path for path in (project.cache / "packages").iterdir() if path.suffix != ".lock"]
    assert not list(project.folder.rglob("evil*"))


def test_what_uv_does_by_itself_with_a_hostile_wheel(tmp_path: Path) -> None:
    """It writes nothing outside of the target either: ours is not the only guard."""
    from builder.packages import uv

    inside = tmp_path / "deep" / "target"
    inside.mkdir(parents=True)
    files: dict[str, bytes | Entry] = {
        "../out1": b"",
        "../../out2": b"",
        f"{tmp_path}/out3": b"",
        "a-1.0.data/data/../../../out4": b"",
        "link": Entry(str(tmp_path).encode(), stat.S_IFLNK | 0o777),
        "suid": Entry(b"", 0o106777),
    }
    path = wheel(tmp_path, "a", files=files)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    uv.install({path: digest}, inside, "3.13", ARM64, QUIET)
    assert not list(tmp_path.rglob("out*"))
    assert not (inside / "link").is_symlink()
    assert (inside / "suid").stat().st_mode & 0o7022 == 0


def test_two_packages_that_have_the_same_file_are_refused(project: Project) -> None:
    wheel(project.wheels, "a", files={"x.py": b"a"})
    wheel(project.wheels, "b", files={"x.py": b"b"})
    assert (
        "a-1.0-py3-none-any.whl and b-1.0-py3-none-any.whl both have 'x.py'"
        in refusal(project, "a", "b").message
    )
