"""Locked Debian packages: exactly these are taken, from the mirror or an archive of the past, or none."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from builder.arch import ARCHES
from builder.base import CachedRootfs, Gone, Selection
from builder.base.debian import DebianBase
from builder.bases import find_suite
from builder.errors import BuildError
from builder.progress import Progress
from tests.debs import Entry, deb, folder, link
from tests.integration.debianarchive import Archive, serving

AMD64 = ARCHES["amd64"]
NAMES = sorted(find_suite("trixie").packages)
POOL = "pool/main/n/netbase"


class Notes(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@dataclass
class World:
    """A small archive that has all that trixie's interpreter needs, and someone who builds from it."""

    folder: Path
    archive: Archive
    mirror: str
    progress: Notes = field(default_factory=Notes)

    def publish(self, version: str) -> None:
        """The archive has netbase in this version, too."""
        place = self.archive.folder / POOL
        files = {"./": folder(), "./etc/": folder(), "./etc/services": Entry(version.encode() * 100)}
        deb(place / f"netbase_{version}_all.deb", files, name="netbase", version=version)
        self.archive.publish()

    def withdraw(self, version: str) -> Path:
        """The archive has it no more; returns its file, which is elsewhere now."""
        path = self.archive.folder / POOL / f"netbase_{version}_all.deb"
        kept = self.folder / path.name
        path.rename(kept)
        self.archive.publish()
        return kept

    def base(self, pinned: Selection | None = None, cache: str = "cache", **more: str | None) -> DebianBase:
        return DebianBase(
            "trixie",
            mirror=more.get("mirror", self.mirror),
            cache=self.folder / cache,
            refresh=False,
            progress=self.progress,
            pinned={AMD64.name: pinned} if pinned else None,
            snapshot=more.get("snapshot"),
        )

    def chosen(self) -> Selection:
        """What the archive gives today, fetched into a cache of its own."""
        return self.base(cache="first").select(AMD64)[0]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    archive = Archive(tmp_path / "archive")
    pool = archive.folder / "pool/main"
    for name in NAMES:
        files = {"./": folder(), "./usr/": folder(), f"./usr/{name}": Entry(name.encode())}
        needs = "Depends: a-dependency\n" if name == "tzdata" else ""
        if name == "base-files":
            files |= {"./usr/lib/": folder(), "./lib": link("usr/lib"), "./var/cache/": folder(0o700)}
        if name != "netbase":
            deb(pool / f"{name}_1.0_amd64.deb", files, name=name, arch="amd64", control=needs)
    deb(pool / "a-dependency_1%3a1.0_all.deb", {"./lib/x": b"x"}, name="a-dependency", version="1:1.0")
    deb(pool / "unwanted_1.0_all.deb", {"./unwanted": b""}, name="unwanted")
    with serving(archive) as mirror:
        made = World(tmp_path, archive, mirror)
        made.publish("1.0")
        yield made


def listing(root: Path) -> dict[str, tuple[int, object]]:
    """Every path below a folder: its mode, and what it holds or where it leads."""
    found: dict[str, tuple[int, object]] = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        content: object = path.readlink() if stat.S_ISLNK(mode) else None
        found[str(path.relative_to(root))] = (mode, path.read_bytes() if stat.S_ISREG(mode) else content)
    return found


def services(rootfs: CachedRootfs) -> str:
    return (rootfs.directory / "etc/services").read_text()[:3]


def test_a_locked_version_is_taken_though_the_mirror_has_a_newer_one(world: World) -> None:
    """And mmdebstrap is not asked at all; without the lock the newer one is taken."""
    old = world.chosen()
    assert [one.name for one in old.packages] == sorted([*NAMES, "a-dependency"])
    assert old.published == "20250301T000000Z"
    world.publish("2.0")
    world.archive.asked.clear()
    pinned = world.base(old).rootfs(AMD64)
    assert services(pinned) == "1.0"
    assert pinned.cached_age_s is None
    assert pinned.packages == old.packages
    assert {path.rpartition(".")[2] for path in world.archive.asked} == {"deb"}
    assert services(world.base().rootfs(AMD64)) == "2.0"


def test_a_locked_base_has_the_files_of_one_that_is_not(world: World) -> None:
    """To the byte and the mode, as files and as tar, with the same identity: another cache, another umask."""
    one = world.base(cache="first").rootfs(AMD64)
    before = os.umask(0o077)
    try:
        other = world.base(world.chosen(), cache="second").rootfs(AMD64)
    finally:
        os.umask(before)
    assert other.directory != one.directory
    assert listing(other.directory) == listing(one.directory)
    assert other.tar.read_bytes() == one.tar.read_bytes()
    assert other.identity == one.identity
    assert (one.directory / "usr/lib/x").read_bytes() == b"x", "below the link that base-files has"
    assert not (one.directory / "unwanted").exists()


def test_other_packages_are_another_identity(world: World) -> None:
    first = world.base().rootfs(AMD64).identity
    world.publish("2.0")
    assert world.base(cache="second").rootfs(AMD64).identity != first


@pytest.mark.parametrize("stamp", ["20250301T000000Z", "20250301T060000Z", "20250302T000000Z"])
def test_a_version_that_is_gone_comes_from_the_archive_of_the_past(world: World, stamp: str) -> None:
    """From its state when the Release file was made, or from one soon after; by its hash all the same."""
    old = world.chosen()
    world.publish("2.0")
    kept = world.withdraw("1.0")
    url = world.mirror.split()[2]
    past = world.archive.folder / "past/archive/debian" / stamp / POOL
    past.mkdir(parents=True)
    shutil.copy(kept, past)
    assert services(world.base(old, snapshot=f"{url}/past").rootfs(AMD64)) == "1.0"


@pytest.mark.parametrize("has_past", [False, True])
def test_a_version_that_is_gone_everywhere_is_an_error(world: World, has_past: bool) -> None:
    """It says which, and what to do; nothing is built of the rest."""
    old = world.chosen()
    world.publish("2.0")
    world.withdraw("1.0")
    snapshot = f"{world.mirror.split()[2]}/past" if has_past else None
    with pytest.raises(Gone, match=r"netbase 1\.0 for all: .* it") as caught:
        world.base(old, snapshot=snapshot).rootfs(AMD64)
    hint = str(caught.value.hint)
    assert "sandbox-build lock" in hint
    assert ("base_snapshot" in hint) != has_past
    assert not list((world.folder / "cache/debian").glob("trixie-amd64-*/rootfs"))


def test_a_mirror_that_was_updated_meanwhile_is_asked_again(world: World) -> None:
    """What apt chose earlier today is gone before it was fetched: apt chooses anew."""
    base = world.base()
    base.select(AMD64)
    world.publish("2.0")
    world.withdraw("1.0")
    assert services(base.rootfs(AMD64)) == "2.0"


def test_a_file_with_another_hash_is_refused(world: World) -> None:
    """Of the same name and size, as a mirror might have it; it is not kept."""
    old = world.chosen()
    path = world.archive.folder / POOL / "netbase_1.0_all.deb"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(BuildError, match=r"netbase_1\.0_all\.deb: its hash is [0-9a-f]{64}, but"):
        world.base(old).rootfs(AMD64)
    assert not list((world.folder / "cache/debs").glob("*/netbase*"))


def test_a_file_larger_than_the_lock_says_is_not_even_fetched_to_its_end(world: World) -> None:
    old = world.chosen()
    small = tuple(replace(one, size=100) if one.name == "netbase" else one for one in old.packages)
    with pytest.raises(BuildError, match=r"netbase_1\.0_all\.deb is larger than 100 bytes"):
        world.base(replace(old, packages=small)).rootfs(AMD64)


def test_a_damaged_file_in_the_cache_is_fetched_anew(world: World) -> None:
    """It is found out at its next use, and said."""
    old = world.chosen()
    first = world.base(old).rootfs(AMD64)
    (kept,) = (world.folder / "cache/debs").glob("*/netbase*")
    kept.write_bytes(kept.read_bytes()[:-1])
    shutil.rmtree(first.directory.parent)
    world.archive.asked.clear()
    assert services(world.base(old).rootfs(AMD64)) == "1.0"
    assert any("damaged in the cache, and made anew" in line for line in world.progress.lines)
    assert [path.rpartition("/")[2] for path in world.archive.asked] == ["netbase_1.0_all.deb"]


def test_a_damaged_root_filesystem_in_the_cache_is_made_anew(world: World) -> None:
    """A file that a lost machine left empty would go into the image, with its packages' names."""
    old = world.chosen()
    first = world.base(old).rootfs(AMD64)
    (first.directory / "etc/services").write_bytes(b"")
    assert services(world.base(old).rootfs(AMD64)) == "1.0"
    assert any("damaged in the cache, and made anew" in line for line in world.progress.lines)


def test_a_connection_that_breaks_is_tried_again(world: World) -> None:
    old = world.chosen()
    world.archive.cut = 2
    assert services(world.base(old).rootfs(AMD64)) == "1.0"
    assert world.archive.cut == 0


def test_a_mirrors_password_is_sent_to_it_and_shown_to_nobody(world: World) -> None:
    """With it the packages come; a wrong one is an error that does not have it."""
    old = world.chosen()
    world.archive.login = "us er:p@ss"
    host = world.mirror.split()[2].removeprefix("http://")
    with pytest.raises(BuildError, match="401") as caught:
        world.base(old, mirror=f"http://us%20er:secret@{host}").rootfs(AMD64)
    assert "secret" not in f"{caught.value.message}{caught.value.hint}"
    rootfs = world.base(old, mirror=f"http://us%20er:p%40ss@{host}").rootfs(AMD64)
    assert services(rootfs) == "1.0"


def test_a_mirror_may_be_a_folder(world: World) -> None:
    old = world.chosen()
    world.archive.asked.clear()
    assert services(world.base(old, mirror=world.archive.folder.as_uri()).rootfs(AMD64)) == "1.0"
    assert world.archive.asked == []
    world.withdraw("1.0")
    with pytest.raises(Gone):
        world.base(old, cache="other", mirror=f"copy://{world.archive.folder}").rootfs(AMD64)


def test_two_builds_at_once_fetch_each_file_once(world: World) -> None:
    """Of a locked base too: one makes an entry, the other waits for it."""
    old = world.chosen()
    lines = [str(one) for one in old.packages]
    code = (
        "from tests.integration.test_debian_pinned import build; "
        f"build({str(world.folder / 'cache')!r}, {world.mirror!r}, {lines!r}, {old.published!r})"
    )
    world.archive.asked.clear()
    builds = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    said = [build.communicate()[0] for build in builds]
    assert said[0] == said[1] != b""
    assert len(world.archive.asked) == len(set(world.archive.asked)) == len(old.packages)


def build(cache: str, mirror: str, lines: list[str], published: str) -> None:
    """Makes a locked base, and prints which it is."""
    from builder.base import DebianPackage

    selection = Selection(tuple(map(DebianPackage.parse, lines)), published)
    base = DebianBase(
        "trixie",
        mirror=mirror,
        cache=Path(cache),
        refresh=False,
        progress=Progress(quiet=True),
        pinned={AMD64.name: selection},
    )
    print(base.rootfs(AMD64).identity)
