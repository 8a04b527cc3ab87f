"""A shelf of the cache: what is damaged goes, what another build made meanwhile stays."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.progress import Progress
from builder.shelf import Shelf

KEY = "a-1"


def fill(work: Path) -> None:
    (work / "content").write_text("whole")
    (work / "folder").mkdir(exist_ok=True)
    (work / "folder/program").write_text("#!")
    (work / "link").unlink(missing_ok=True)
    (work / "link").symlink_to("content")


def is_whole(entry: Path) -> bool:
    return (entry / "content").read_text() == "whole"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path, "kept", Progress())


def test_a_whole_entry_is_found(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    assert shelf.find(KEY, is_whole) is None
    entry = shelf.open(KEY, fill)
    assert shelf.find(KEY, is_whole) == entry
    assert capsys.readouterr().err == ""


def lost(entry: Path) -> None:
    (entry / "content").unlink()


def shorter(entry: Path) -> None:
    (entry / "content").write_text("half")


def others(entry: Path) -> None:
    (entry / "content").write_text("hello")


def another_kind(entry: Path) -> None:
    (entry / "folder/program").unlink()
    (entry / "folder/program").symlink_to("#!")


def more(entry: Path) -> None:
    (entry / "folder/another").write_text("")


def elsewhere(entry: Path) -> None:
    (entry / "link").unlink()
    (entry / "link").symlink_to("folder/program")


def unsealed(entry: Path) -> None:
    entry.with_name(f"{entry.name}.seal").unlink()


@pytest.mark.parametrize("damage", [lost, shorter, others, another_kind, more, elsewhere, unsealed])
def test_a_damaged_entry_goes(
    damage: Callable[[Path], None], shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the next one is made anew. Other content of the same size is what `is_whole` sees alone; without
    a seal it is of a version that made none.
    """
    entry = shelf.open(KEY, fill)
    damage(entry)
    if damage is others:
        assert shelf.find(KEY) == entry
    assert shelf.find(KEY, is_whole) is None
    assert not entry.exists()
    said = capsys.readouterr().err
    assert said.startswith("  damaged in the cache, and made anew: ") is (damage is not unsealed), said
    assert is_whole(shelf.open(KEY, fill))


def test_what_another_build_has_made_anew_stays(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    """Two builds find the same damage; the one that comes second must not remove what the first one made."""
    entry = shelf.open(KEY, fill)
    others(entry)
    asked: list[bool] = []

    def mended_in_between(path: Path) -> bool:
        found = is_whole(path)
        if not asked:
            fill(path)
        asked.append(found)
        return found

    assert shelf.find(KEY, mended_in_between) == entry
    assert asked == [False, True]
    assert is_whole(entry)
    assert capsys.readouterr().err == ""


def test_a_copied_cache_is_whole(shelf: Shelf, tmp_path: Path) -> None:
    """With the dates and modes of whoever copied it, as CI services do."""
    shelf.open(KEY, fill)
    subprocess.run(["sh", "-c", 'umask 077; cp -R "$0" "$1"', shelf.folder, tmp_path / "copied"], check=True)
    assert Shelf(tmp_path, "copied", Progress()).find(KEY, is_whole) is not None


def test_a_key_is_never_a_path(shelf: Shelf) -> None:
    with pytest.raises(BuildError, match="is no name of an entry"):
        shelf.find("../a", is_whole)
