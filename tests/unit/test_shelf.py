"""A shelf of the cache: what is damaged goes, what another build made meanwhile stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.progress import Progress
from builder.shelf import Shelf

KEY = "a-1"


def fill(work: Path) -> None:
    (work / "content").write_text("whole")


def is_whole(entry: Path) -> bool:
    return (entry / "content").read_text() == "whole"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path, "kept", Progress())


def test_a_whole_entry_is_found(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    assert shelf.find_whole(KEY, is_whole) is None
    entry = shelf.open(KEY, fill)
    assert shelf.find_whole(KEY, is_whole) == entry
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["changed", "emptied"])
def test_a_damaged_entry_goes(damage: str, shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    """And the next one is made anew."""
    content = shelf.open(KEY, fill) / "content"
    if damage == "changed":
        content.write_text("half")
    else:
        content.unlink()
    assert shelf.find_whole(KEY, is_whole) is None
    assert not content.parent.exists()
    assert "damaged in the cache, and made anew" in capsys.readouterr().err
    assert is_whole(shelf.open(KEY, fill))


def test_what_another_build_has_made_anew_stays(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    """Two builds find the same damage; the one that comes second must not remove what the first one made."""
    entry = shelf.open(KEY, fill)
    (entry / "content").write_text("half")
    asked: list[bool] = []

    def mended_in_between(path: Path) -> bool:
        found = is_whole(path)
        if not asked:
            fill(path)
        asked.append(found)
        return found

    assert shelf.find_whole(KEY, mended_in_between) == entry
    assert asked == [False, True]
    assert is_whole(entry)
    assert capsys.readouterr().err == ""


def test_a_key_is_never_a_path(shelf: Shelf) -> None:
    with pytest.raises(BuildError, match="is no name of an entry"):
        shelf.find_whole("../a", is_whole)
