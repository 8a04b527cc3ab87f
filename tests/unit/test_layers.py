"""Layers: joined as one root, and unpacked inside one folder alone."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.layers import LayerUnpacker, join_layers
from tests.layered import listing


def test_joined_layers(tmp_path: Path) -> None:
    """Together they are what there was; a file that has a name elsewhere is another file there."""
    for name in ("a/usr/lib", "b/usr/lib", "cache"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/usr/lib").chmod(0o700)
    (tmp_path / "b/usr/lib").chmod(0o700)
    (tmp_path / "a/usr/lib/one").write_text("1")
    (tmp_path / "cache/two").write_text("2")
    (tmp_path / "cache/two").chmod(0o640)
    (tmp_path / "b/usr/lib/two").hardlink_to(tmp_path / "cache/two")
    (tmp_path / "b/usr/lib/three").symlink_to("/absent")
    join_layers([tmp_path / "a", tmp_path / "b"], tmp_path / "root")
    both = listing(tmp_path / "a") | listing(tmp_path / "b")
    assert listing(tmp_path / "root") == both
    assert (tmp_path / "root/usr/lib/one").samefile(tmp_path / "a/usr/lib/one")
    (tmp_path / "root/usr/lib/two").write_text("changed")
    assert (tmp_path / "cache/two").read_text() == "2"


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_the_root_of_joined_layers_is_open_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    """A run is another user than the one who builds: a root that it cannot enter would prove nothing."""
    (tmp_path / "a").mkdir()
    before = os.umask(mask)
    try:
        join_layers([tmp_path / "a"], tmp_path / "root")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o755


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../climbs")],
        [entry("a/../../climbs")],
        [entry("/absolute")],
        [entry("link", tarfile.SYMTYPE, ".."), entry("link/climbs")],
        [entry("a/link", tarfile.SYMTYPE, "../.."), entry("a/link/climbs", tarfile.DIRTYPE)],
        [entry("hard", tarfile.LNKTYPE, "../outside")],
        [entry("link", tarfile.SYMTYPE, "../outside"), entry("hard", tarfile.LNKTYPE, "link")],
        [entry("file"), entry("file/below")],
        [entry("folder", tarfile.DIRTYPE), entry("folder")],
        [entry("device", tarfile.CHRTYPE)],
        [entry("pipe", tarfile.FIFOTYPE)],
        [entry(".wh.usr")],
        [entry("..")],
    ],
    ids=lambda entries: " + ".join(repr(entry.name) for entry in entries),
)
def test_hostile_layers(entries: list[tarfile.TarInfo], tmp_path: Path) -> None:
    """An entry that leads out of the folder, or is no part of an image, is refused."""
    (tmp_path / "outside").write_text("untouched")
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for one in entries:
            tar.addfile(one, io.BytesIO())
    layer.seek(0)
    with pytest.raises(BuildError, match="not unpacked"):
        LayerUnpacker(tmp_path / "unpacked").unpack(layer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "unpacked"]
    assert (tmp_path / "outside").read_text() == "untouched"
    assert (tmp_path / "outside").stat().st_nlink == 1


def test_no_set_id(tmp_path: Path) -> None:
    """Set-id bits are dropped."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        program = entry("program")
        program.mode = 0o6755
        tar.addfile(program)
    layer.seek(0)
    LayerUnpacker(tmp_path / "unpacked").unpack(layer)
    assert stat.S_IMODE((tmp_path / "unpacked/program").stat().st_mode) == 0o755


def test_bombs_are_refused_before_they_are_read(tmp_path: Path) -> None:
    """A header of a gigabyte, and a file of holes: refused, with next to nothing read or written."""
    huge = tarfile.TarInfo("pax")
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "header.tar").write_bytes(huge.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    holes = tmp_path / "holes.tar"
    (tmp_path / "sparse").write_bytes(b"")
    os.truncate(tmp_path / "sparse", 1 << 30)
    subprocess.run(["tar", "--sparse", "-cf", holes, "-C", tmp_path, "sparse"], check=True)
    with (tmp_path / "header.tar").open("rb") as layer, pytest.raises(tarfile.ReadError, match="a header of"):
        LayerUnpacker(tmp_path / "a").unpack(layer)
    with holes.open("rb") as layer, pytest.raises(BuildError, match="has holes"):
        LayerUnpacker(tmp_path / "b").unpack(layer)
    assert not (tmp_path / "b" / "sparse").exists()
