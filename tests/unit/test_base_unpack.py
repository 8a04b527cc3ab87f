"""Packages unpacked: as dpkg would, whatever is in them, and nothing outside the root."""

from __future__ import annotations

import errno
import io
import os
import resource
import stat
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from builder.base import dpkg
from builder.base.deb import Deb
from builder.base.debian import unpack
from builder.base.debian_package import DebianPackage
from builder.base.unpack import Unpacker
from builder.errors import BuildError
from builder.layers import BoundedInfo
from builder.progress import Progress
from tests.debs import COMPRESSORS, Entry, deb, described, folder, link

QUIET = Progress(quiet=True)


def unpacked(tmp_path: Path, *debs: Path) -> Path:
    unpacker = Unpacker(tmp_path / "root")
    for path in debs:
        unpacker.unpack(Deb(path))
    unpacker.finish()
    return tmp_path / "root"


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_a_package_is_read_however_it_is_compressed(tmp_path: Path, kind: str) -> None:
    """And dpkg-deb, which made none of it, reads the same."""
    path = deb(tmp_path / "a.deb", {"./usr/x": b"content"}, control="Multi-Arch: foreign\n", kind=kind)
    assert (unpacked(tmp_path, path) / "usr/x").read_bytes() == b"content"
    assert Deb(path).control == {
        "Package": "one",
        "Version": "1.0",
        "Architecture": "all",
        "Maintainer": "Nobody <x@example.org>",
        "Multi-Arch": "foreign",
        "Description": "a package\n of a test",
    }
    said = subprocess.run(["dpkg-deb", "-f", path, "Multi-Arch"], capture_output=True, text=True, check=True)
    assert said.stdout == "foreign\n"


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_are_the_packages_own(tmp_path: Path, umask: int) -> None:
    """Whatever the umask; without set-id bits; of a folder that two packages have, the first one's."""
    one = deb(
        tmp_path / "a.deb",
        {"./": folder(), "./sticky": folder(0o1777), "./d": folder(0o555), "./d/su": Entry(b"", 0o6755)},
    )
    two = deb(
        tmp_path / "b.deb", {"./d": folder(0o777), "./d/x": Entry(b"", 0o640), "./new/y": b""}, name="b"
    )
    before = os.umask(umask)
    try:
        root = unpacked(tmp_path, one, two)
    finally:
        os.umask(before)
    modes = {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*")}
    assert modes == {
        **{"sticky": 0o1777, "d": 0o555, "d/su": 0o755, "d/x": 0o640},
        **{"new": 0o755, "new/y": 0o644},
    }
    assert int((root / "d/su").stat().st_mtime) == 1_700_000_000


def test_a_link_to_a_folder_stays(tmp_path: Path) -> None:
    """That is how /lib comes to lie in /usr: what a package has below it goes where the link leads."""
    links = deb(
        tmp_path / "a.deb", {"./usr/lib": folder(), "./lib": link("usr/lib"), "./up": link("/lib/../..")}
    )
    files = deb(
        tmp_path / "b.deb",
        {
            "./lib": folder(0o700),
            "./lib/x": b"x",
            "./up/usr/y": b"y",
            "./usr/z": Entry(type=tarfile.LNKTYPE, link="./lib/x"),
        },
        name="b",
    )
    root = unpacked(tmp_path, links, files)
    assert (root / "lib").readlink() == Path("usr/lib")
    assert (root / "usr/lib/x").read_bytes() == b"x"
    assert stat.S_IMODE((root / "usr/lib").stat().st_mode) == 0o755
    assert (root / "usr/y").read_bytes() == b"y", "a link above the root leads to the root"
    assert (root / "usr/z").stat().st_ino == (root / "usr/lib/x").stat().st_ino


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([("../x", Entry())], "leads out of the root"),
        ([("./a/../../x", Entry())], "leads out of the root"),
        ([("./a\n/usr/bin/python3", Entry())], "two lines of dpkg's list"),
        ([("./null", Entry(type=tarfile.CHRTYPE))], "is neither a file, a folder nor a link"),
        ([("./fifo", Entry(type=tarfile.FIFOTYPE))], "is neither a file, a folder nor a link"),
        ([("./x", Entry()), ("./x/y", Entry())], "is to be a folder, but one has a file there"),
        ([("./x", folder()), ("./x", Entry())], "/x is a folder of another package"),
        ([("./h", Entry(type=tarfile.LNKTYPE, link="/etc/passwd"))], "a hard link to what is no file of it"),
        ([("./h", Entry(type=tarfile.LNKTYPE, link="../x"))], "a hard link to what is no file of it"),
        (
            [("./l", link("/etc/passwd")), ("./h", Entry(type=tarfile.LNKTYPE, link="l"))],
            "a hard link to what",
        ),
        ([("./l", link("l")), ("./l/x", Entry())], "l is to be a folder"),
        ([("./l", link(""))], "is neither a file, a folder nor a link"),
        ([("./h", Entry(type=tarfile.LNKTYPE, link="./h"))], "a hard link to what is no file of it"),
        (
            [("./h", Entry()), ("./h", Entry(type=tarfile.LNKTYPE, link="./h"))],
            "a hard link to what is no file of it",
        ),
        ([("./" + "n" * 256, Entry())], "has a name that is too long"),
        ([("./" + "n" * 256, folder())], "has a name that is too long"),
        ([("./" + "n" * 256, link("x"))], "has a name that is too long"),
        ([("./l", link("n" * 4096))], "has a name that is too long"),
        ([("/".join(["n" * 200] * 21), Entry())], "has a name that is too long"),
        ([("./x", Entry(pax={"mtime": "nan"}))], "is damaged: Invalid value NaN"),
        ([("./x", Entry(pax={"mtime": "inf"}))], "is damaged: timestamp out of range"),
        ([("./x", Entry(pax={"mtime": "1e300"}))], "is damaged: timestamp out of range"),
        ([("./x", Entry(pax={"mtime": str(2**63)}))], "is damaged: timestamp out of range"),
        ([("./x", Entry(pax={"mtime": str(-(2**64))}))], "is damaged: timestamp out of range"),
        ([("./x", Entry(pax={"GNU.sparse.map": "a,b"}))], "is damaged: invalid literal"),
        ([("./x", Entry(pax={"size": str(1 << 37)}))], "is damaged: a file of 137438953472 bytes"),
        ([("./x", Entry(pax={"size": "-5"}))], "is damaged: a file of -5 bytes"),
        ([("./x", Entry(type=tarfile.SYMTYPE, pax={"linkpath": "a\0b"}))], "is damaged: embedded null"),
    ],
)
def test_what_no_package_has_is_refused(tmp_path: Path, entries: list[tuple[str, Entry]], why: str) -> None:
    """By the package's name; nothing is written outside the root."""
    with pytest.raises(BuildError, match=why) as caught:
        unpacked(tmp_path, deb(tmp_path / "bad.deb", entries))
    assert caught.value.message.startswith("bad.deb: ")
    assert "\n" not in caught.value.message
    assert {path.name for path in tmp_path.iterdir()} == {"bad.deb", "root"}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
def test_no_size_is_below_nothing(kind: bytes) -> None:
    """Of a header that would mean all there is; of a file it would lead back to what was read before."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = kind, -512
    content = io.BytesIO(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(tarfile.ReadError, match="of -512 bytes"):
        tarfile.open(fileobj=content, mode="r:", tarinfo=BoundedInfo).close()


def test_absolute_names_and_links_lead_into_the_root(tmp_path: Path) -> None:
    path = deb(
        tmp_path / "a.deb",
        [("/etc/x", Entry(b"x")), ("./d/l", link(str(tmp_path))), ("./d/l/y", Entry(b"y"))],
    )
    root = unpacked(tmp_path, path)
    assert (root / "etc/x").read_bytes() == b"x"
    assert (root / str(tmp_path)[1:] / "y").read_bytes() == b"y"
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("first", ["one", "two"])
def test_a_file_of_two_packages(tmp_path: Path, first: str) -> None:
    """It is an error; where one says that it replaces the other, it has the file in any order."""
    one = deb(tmp_path / "one.deb", {"./x": b"one", "./l": link("one")})
    two = deb(tmp_path / "two.deb", {"./x": b"two", "./l": link("two")}, name="two")
    with pytest.raises(BuildError, match=r"two\.deb: /x is a file of one too"):
        unpacked(tmp_path / "refused", one, two)
    two = deb(two, {"./x": b"two", "./l": link("two")}, name="two", control="Replaces: zero, one (<< 2)\n")
    root = unpacked(tmp_path, *([one, two] if first == "one" else [two, one]))
    assert (root / "x").read_bytes() == b"two"
    assert (root / "l").readlink() == Path("two")


def test_a_folder_follows_a_link_that_was_replaced(tmp_path: Path) -> None:
    """What comes below it goes to where it leads now, and not to where it led before."""
    one = deb(tmp_path / "one.deb", [("./a", folder()), ("./l", link("a")), ("./l/x", Entry())])
    two = deb(
        tmp_path / "two.deb",
        [("./b", folder()), ("./l", link("b")), ("./l/y", Entry())],
        name="two",
        control="Replaces: one\n",
    )
    root = unpacked(tmp_path, one, two)
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {"a/x", "b/y"}


def test_a_date_before_1970_is_taken(tmp_path: Path) -> None:
    root = unpacked(tmp_path, deb(tmp_path / "a.deb", {"./x": Entry(pax={"mtime": "-5"})}))
    assert (root / "x").stat().st_mtime == -5


def test_a_failure_of_the_disk_is_not_the_packages_fault(tmp_path: Path) -> None:
    """It stays what it is, for the cache to say; a limit of this process stands for a disk that is full."""
    path = deb(tmp_path / "a.deb", {"./x": bytes(1 << 20)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number below is the match
            unpacked(tmp_path, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize("text", [" x\n", "\n", "Package: one\n\n x\n"])
def test_a_package_that_does_not_say_what_it_is_is_refused(tmp_path: Path, text: str) -> None:
    path = deb(tmp_path / "a.deb", {}, says=text)
    with pytest.raises(BuildError, match=r"^a\.deb: (does not say what it is|control\.tar is damaged)"):
        Deb(path)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        *(("", ".xz"), ("!<arch>\n", ".xz"), ("flip", ".gz"), ("flip", ".xz")),  # the others have no checksum
        *(("cut", kind) for kind in COMPRESSORS),
    ],
)
def test_a_damaged_package_is_refused(tmp_path: Path, damage: str, kind: str) -> None:
    """As an error with its name, wherever the damage is."""
    path = deb(tmp_path / "a.deb", {"./x": os.urandom(4096)}, kind=kind)
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes({"cut": content[:middle], "flip": flipped}.get(damage, damage.encode()))
    with pytest.raises(BuildError, match=r"^a\.deb: "):
        unpacked(tmp_path, path)


def test_the_database_is_as_dpkg_has_it(tmp_path: Path) -> None:
    """Sorted by package; a list of each one's paths; dpkg-query, which knows the format, reads it."""
    archive = tmp_path / "pool"
    source = "Source: src (2.0)\nMulti-Arch: same\nDepends: b\n"
    debs = [
        deb(archive / "b_1.0_all.deb", {"./": folder(), "./usr/": folder(), "./usr/b": b""}, name="b"),
        deb(
            archive / "a_2-1_amd64.deb",
            {"./usr/": folder(), "./usr/a": b""},
            name="a",
            version="2-1",
            arch="amd64",
            control=source,
        ),
    ]
    packages = {
        described(debs[0], archive): debs[0],
        described(debs[1], archive, arch="amd64", source="src"): debs[1],
    }
    unpack(packages, tmp_path / "root", QUIET)
    root = tmp_path / "root"
    assert (root / dpkg.STATUS).read_text() == (
        "Package: a\nStatus: install ok installed\nVersion: 2-1\nArchitecture: amd64\n"
        "Maintainer: Nobody <x@example.org>\nSource: src (2.0)\nMulti-Arch: same\nDepends: b\n"
        "Description: a package\n\n"
        "Package: b\nStatus: install ok installed\nVersion: 1.0\nArchitecture: all\n"
        "Maintainer: Nobody <x@example.org>\nDescription: a package\n"
    )
    assert (root / dpkg.INFO / "a:amd64.list").read_text() == "/.\n/usr\n/usr/a\n"
    assert (root / dpkg.INFO / "b.list").read_text() == "/.\n/usr\n/usr/b\n"
    query = [
        "dpkg-query",
        f"--admindir={root}/var/lib/dpkg",
        "-W",
        "-f",
        "${binary:Package} ${source:Version}\n",
    ]
    said = subprocess.run(query, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["a:amd64 2.0", "b 1.0"]
    for name in ("a:amd64", "b"):
        said = subprocess.run([*query[:2], "--listfiles", name], capture_output=True, text=True, check=True)
        assert said.stdout == f"/.\n/usr\n/usr/{name[0]}\n"


def test_a_file_that_is_another_package_is_refused(tmp_path: Path) -> None:
    """A lock can give any package the hash of any file."""
    path = deb(tmp_path / "one_1.0_all.deb", {"./x": b""})
    locked = described(path, tmp_path)
    other = DebianPackage("libc6", locked.version, "all", "glibc", locked.sha256, locked.size, locked.path)
    with pytest.raises(BuildError, match=r"libc6 1\.0: the locked hash is that of one 1\.0 all"):
        unpack({other: path}, tmp_path / "root", QUIET)


HOSTILE: dict[str, dict[str, bytes | Entry]] = {
    "the status is a link": {"./var/lib/dpkg/status": link("{outside}/file")},
    "a list is a link": {"./var/lib/dpkg/info/one.list": link("{outside}/file")},
    "the folder is a link": {"./var/lib/dpkg": link("{outside}")},
    "the lists' folder is a link": {"./var/lib/dpkg/info": link("{outside}")},
    "a folder above is a link": {"./var": link("{outside}")},
    "the status is a folder": {"./var/lib/dpkg/status": folder()},
    "the status is a file": {"./var/lib/dpkg/status": b""},
    "a file is above": {"./var": b""},
    "a file is the lists' folder": {"./var/lib/dpkg/info": b""},
}


@pytest.mark.parametrize("files", HOSTILE.values(), ids=HOSTILE)
def test_dpkgs_database_is_ours_alone(tmp_path: Path, files: dict[str, bytes | Entry]) -> None:
    """A package that has any of it is refused, and what its links lead to stays as it was."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("theirs")
    placed = {
        name: replace(entry, link=entry.link.format(outside=outside)) if isinstance(entry, Entry) else entry
        for name, entry in files.items()
    }
    path = deb(tmp_path / "one_1.0_all.deb", placed)
    with pytest.raises(BuildError):
        unpack({described(path, tmp_path): path}, tmp_path / "root", QUIET)
    assert {one.name: one.read_text() for one in outside.iterdir()} == {"file": "theirs"}
    # The control: without these it is unpacked, and has its database.
    good = deb(path, {"./usr/x": b""})
    unpack({described(good, tmp_path): good}, tmp_path / "good", QUIET)
    assert (tmp_path / "good" / dpkg.INFO / "one.list").is_file()
