"""The folder that a build writes into: one build at a time, and whose fault a failure is."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from builder.errors import BuildError, UsageError
from builder.output import check_place, output_folder


def test_a_second_build_is_kept_out(tmp_path: Path) -> None:
    """As long as the first one is there."""
    with output_folder(tmp_path / "dist"):
        with (
            pytest.raises(BuildError, match="another build is writing there"),
            output_folder(tmp_path / "dist"),
        ):
            pytest.fail("it was let in")
        (tmp_path / "dist/image").touch()
    with output_folder(tmp_path / "dist"):
        pass


def test_a_folder_made_for_a_build_that_failed_goes(tmp_path: Path) -> None:
    """Unless something was built."""
    with pytest.raises(RuntimeError), output_folder(tmp_path / "dist"):
        raise RuntimeError
    assert not (tmp_path / "dist").exists()


def test_what_else_would_block_is_not_another_build(tmp_path: Path) -> None:
    """A machine that has no process left says EAGAIN, too."""
    with pytest.raises(BlockingIOError, match="no process"), output_folder(tmp_path / "dist"):
        raise BlockingIOError(errno.EAGAIN, "no process")


def test_a_folder_goes_while_nobody_else_can_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a second build could lock it just before, and a third make it anew and be let in beside that."""
    there: list[bool] = []
    close = os.close

    def closing(descriptor: int) -> None:
        there.append((tmp_path / "dist").exists())
        close(descriptor)

    monkeypatch.setattr(os, "close", closing)
    with pytest.raises(RuntimeError), output_folder(tmp_path / "dist"):
        raise RuntimeError
    assert there == [False]


def test_a_folder_that_was_removed_as_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the build before, which failed: a lock on what is gone keeps nobody out."""
    locked: list[int] = []
    flock = fcntl.flock

    def locking(descriptor: int, operation: int) -> None:
        if not locked:
            (tmp_path / "dist").rmdir()
        locked.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", locking)
    with output_folder(tmp_path / "dist"):
        assert (tmp_path / "dist").is_dir()
        assert len(locked) == 2
        with pytest.raises(BuildError, match="another build"), output_folder(tmp_path / "dist"):
            pytest.fail("it was let in")


@pytest.mark.parametrize(
    ("files", "ours"),
    [
        *(({}, True), ({"amd64/image.tar": "x"}, True), ({"amd64/build.json": "{}"}, True)),
        *(({"amd64/boot.S": "my work"}, False), ({"amd64": "a file"}, False)),
    ],
)
def test_what_is_not_ours_stays(files: dict[str, str], ours: bool, tmp_path: Path) -> None:
    """A user's own folder may be called as an architecture is."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    if ours:
        check_place(tmp_path / "amd64")
        (tmp_path / "empty").mkdir()
        check_place(tmp_path / "empty")
    else:
        with pytest.raises(UsageError, match="something is there that no build has made"):
            check_place(tmp_path / "amd64")
