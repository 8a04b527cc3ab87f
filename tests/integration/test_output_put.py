"""An image takes another one's place: stopped at any system call, one of the two is there, and whole."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builder.output import sweep
from tests.conftest import REPOSITORY

PUT = """
import sys
from pathlib import Path
from builder.output import put
put(Path(sys.argv[1]), Path(sys.argv[2]))
"""
NO_EXCHANGE = "renameat2:error=EINVAL"


def image(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "image.tar").write_text(name)
    return folder


@pytest.mark.parametrize(
    ("injected", "there", "exit_code"),
    [
        ([], "new", 0),
        (["renameat2:signal=SIGINT"], "new", -2),
        (["renameat2:signal=SIGKILL"], "old", -9),
        (["renameat2:error=EIO"], "old", 1),
        ([NO_EXCHANGE], "new", 0),
        ([NO_EXCHANGE, "rename:signal=SIGINT:when=1"], "old", -2),
        ([NO_EXCHANGE, "rename:signal=SIGINT:when=2"], "new", -2),
        ([NO_EXCHANGE, "rename:signal=SIGKILL:when=1"], "old", -9),
        ([NO_EXCHANGE, "rename:signal=SIGKILL:when=2"], "old", -9),
        ([NO_EXCHANGE, "rename:signal=SIGKILL:when=3"], "new", -9),
        ([NO_EXCHANGE, "rename:error=EIO:when=2"], "old", 1),
    ],
)
def test_one_of_the_two_is_there(injected: list[str], there: str, exit_code: int, tmp_path: Path) -> None:
    """After a kill, once the next build has swept what was left."""
    output = image(tmp_path / "amd64", "old")
    finished = image(tmp_path / ".amd64-x/finished", "new")
    tracing = ["strace", "--output", str(tmp_path / "trace"), "--trace=rename,renameat2"]
    ended = subprocess.run(
        [
            *(*tracing, *(f"--inject={one}" for one in injected), sys.executable, "-c", PUT),
            *(str(finished), str(output)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == exit_code, ended.stderr
    if ended.returncode == -signal.SIGKILL:
        sweep(tmp_path.glob(".amd64-*"), output)
    assert (output / "image.tar").read_text() == there
    sweep(tmp_path.glob(".amd64-*"), output)
    assert (output / "image.tar").read_text() == there
    assert sorted(path.name for path in tmp_path.iterdir()) == ["amd64", "trace"]


def test_the_first_image(tmp_path: Path) -> None:
    finished = image(tmp_path / ".amd64-x/finished", "new")
    subprocess.run([sys.executable, "-c", PUT, finished, tmp_path / "amd64"], cwd=REPOSITORY, check=True)
    assert (tmp_path / "amd64/image.tar").read_text() == "new"
