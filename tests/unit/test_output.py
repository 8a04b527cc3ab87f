"""The folder that a build writes into: one build at a time, and whose fault a failure is."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.output import output_folder


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
