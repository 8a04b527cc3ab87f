"""builder/debian_files.py through apt and mmdebstrap, from an archive of the test's own on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.arch import ARCHES
from builder.debian_files import MAX_AGE_S, packages_with
from builder.progress import Progress
from tests.integration.debianarchive import Archive, serving

QUIET = Progress(quiet=True)
CONTENTS = (
    "usr/lib/{triplet}/libodd.so.3    libs/oddly-named\nusr/lib/{triplet}/libboth.so.1   libs/libboth1\n"
)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive", ("libboth1", "libnamed7"), CONTENTS)


@pytest.fixture
def mirror(archive: Archive) -> Iterator[str]:
    with serving(archive) as line:
        yield line


def ask(mirror: str, cache: Path, arch: str = "amd64") -> dict[str, str]:
    sonames = ("libodd.so.3", "libboth.so.1", "libnamed.so.7", "libgone.so.1")
    return packages_with(sonames, "trixie", ARCHES[arch], mirror=mirror, cache=cache, progress=QUIET)


@pytest.mark.parametrize("arch", ARCHES)
def test_the_index_of_files_is_asked_once_a_week(
    archive: Archive, mirror: str, tmp_path: Path, arch: str
) -> None:
    """For either architecture; the second time nothing is asked, after a week it is."""
    archive.publish()
    expected = {"libodd.so.3": "oddly-named", "libboth.so.1": "libboth1"}
    assert ask(mirror, tmp_path / "cache", arch) == expected
    assert [path for path in archive.asked if path.endswith(f"main/Contents-{arch}.gz")]
    assert not [path for path in archive.asked if "Contents-all" in path]
    before = len(archive.asked)
    assert ask(mirror, tmp_path / "cache", arch) == expected
    assert len(archive.asked) == before
    (entry,) = (tmp_path / "cache" / "debian-files").iterdir()
    old = time.time() - MAX_AGE_S - 1
    os.utime(entry, (old, old))
    assert ask(mirror, tmp_path / "cache", arch) == expected
    assert len(archive.asked) > before
    entry.write_text("half of a JSON fi")
    assert ask(mirror, tmp_path / "cache", arch) == expected


@pytest.mark.parametrize("kind", ["none", "stale"])
def test_without_a_sound_index_names_are_made_by_policy(
    archive: Archive, mirror: str, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mirror that has none, or one that its list does not vouch for: packages that exist, and no cache."""
    archive.publish(contents=kind == "stale", stale=True)
    assert ask(mirror, tmp_path / "cache") == {"libboth.so.1": "libboth1", "libnamed.so.7": "libnamed7"}
    assert not (tmp_path / "cache").exists()
    assert ("no index of files" in capsys.readouterr().err) is (kind == "stale")
