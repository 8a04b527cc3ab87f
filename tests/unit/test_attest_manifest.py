"""tree.json: every path of an image, nothing of how it is packed; and what a hostile archive comes to."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from builder.archive import BuiltImage, write_archive
from builder.attest import manifest
from builder.attest.manifest import Manifest, manifest_of_layers, read_manifest
from builder.errors import BuildError
from builder.layers import write_layer

Added = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"", **fields: object) -> Added:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def layer(*entries: Added) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


def read(*layers: bytes, keep: tuple[str, ...] = ()) -> Manifest:
    return manifest_of_layers([lambda one=one: io.BytesIO(one) for one in layers], keep)  # type: ignore[misc]


FOLDER = entry("a", type=tarfile.DIRTYPE, mode=0o755)
FILE = entry("a/file", b"content", mode=0o644)


def test_each_path_has_what_a_verifier_compares(tmp_path: Path) -> None:
    """Type, mode, and size with digest or target; sorted, one a line, and plain JSON."""
    root = tmp_path / "root"
    (root / "sandbox").mkdir(parents=True)
    (root / "sandbox").chmod(0o1777)
    (root / "sandbox/init").write_bytes(b"program")
    (root / "sandbox/init").chmod(0o755)
    (root / "lib").symlink_to("sandbox")
    archive = _archive(tmp_path, [root])
    found = read_manifest(archive)
    assert json.loads(found.content) == {
        "format": 1,
        "entries": [
            {"path": "/lib", "type": "symlink", "target": "sandbox"},
            {"path": "/sandbox", "type": "directory", "mode": "1777"},
            {
                "path": "/sandbox/init",
                "type": "file",
                "mode": "0755",
                "size": 7,
                "sha256": hashlib.sha256(b"program").hexdigest(),
            },
        ],
    }
    assert found.digest == hashlib.sha256(found.content).hexdigest()
    assert len(found.content.splitlines()) == 3 + 2


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_dates_layers_and_compression_make_no_difference(tmp_path: Path, compression: str) -> None:
    """The same tree, cut into layers in another way, dated and packed in another way."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one / "a", one / "b", two / "b"):
        folder.mkdir(parents=True)
    (one / "a/file").write_bytes(b"x")
    (two / "b/file").write_bytes(b"y")
    parted = read_manifest(_archive(tmp_path, [one, two], compression, epoch=7))
    (one / "b/file").write_bytes(b"y")
    whole = read_manifest(_archive(tmp_path, [one], epoch=8))
    assert parted == whole
    (one / "b/file").chmod(0o755)
    assert read_manifest(_archive(tmp_path, [one], epoch=8)).digest != whole.digest


def test_an_upper_layer_takes_the_place_of_a_lower_one() -> None:
    """As unpacked: the upper file, the upper mode of a folder; what was kept of the lower one is gone."""
    upper = layer(entry("a", type=tarfile.DIRTYPE, mode=0o700), entry("a/file", b"new", mode=0o600))
    found = read(layer(FOLDER, FILE), upper, keep=("/a/file",))
    assert found.entries["/a"].mode == 0o700
    assert (found.entries["/a/file"].size, found.kept) == (3, {"/a/file": b"new"})
    link = entry("a/file", type=tarfile.SYMTYPE, linkname="x")
    assert read(layer(FOLDER, FILE), layer(link), keep=("/a/file",)).kept == {}


def test_a_hard_link_is_the_file_that_it_leads_to() -> None:
    """tar writes a file's second name so."""
    found = read(layer(FOLDER, FILE, entry("b", type=tarfile.LNKTYPE, linkname="a/file")))
    assert found.entries["/b"] == found.entries["/a/file"]


def test_a_name_that_is_not_utf_8_has_a_line_of_its_own() -> None:
    """Two such names are two paths, and the document stays ASCII."""
    found = read(layer(entry("\udcfe"), entry("\udcff")))
    assert [one["path"] for one in json.loads(found.content)["entries"]] == ["/\udcfe", "/\udcff"]
    assert found.content.isascii()


HOSTILE: dict[str, tuple[list[Added], str]] = {
    "absolute": ([entry("/etc/passwd")], "leads out of the image"),
    "above": ([entry("a/../../x")], "leads out of the image"),
    "owner": ([entry("x", uid=1000)], "belongs to 1000:0"),
    "capability": (
        [entry("x", pax_headers={"SCHILY.xattr.security.capability": "all"})],
        "extended attribute SCHILY.xattr.security.capability",
    ),
    "device": ([entry("x", type=tarfile.CHRTYPE)], "neither a file, a folder nor a link"),
    "pipe": ([entry("x", type=tarfile.FIFOTYPE)], "neither a file, a folder nor a link"),
    "deletion": ([entry("a/.wh.file")], "deletes"),
    "below a file": ([entry("x"), entry("x/y")], "lies below /x"),
    "below a link": ([entry("x", type=tarfile.SYMTYPE, linkname="/"), entry("x/y")], "lies below /x"),
    "file for folder": ([FOLDER, entry("a", b"x")], "takes the place of a folder"),
    "folder for file": ([entry("x"), entry("x", type=tarfile.DIRTYPE)], "in place of a file"),
    "link to nothing": ([entry("x", type=tarfile.LNKTYPE, linkname="y")], "hard link to what is no file"),
    "link out": ([entry("x", type=tarfile.LNKTYPE, linkname="../y")], "leads out of the image"),
    "long name": ([entry("x" * 5000)], "a name of 5000 characters"),
    "long target": ([entry("x", type=tarfile.SYMTYPE, linkname="y" * 5000)], "a link to 5000 characters"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_sandbox_build_never_writes_is_refused(name: str) -> None:
    """What the digest would not tell of, or what an unpacker would make something else of."""
    entries, why = HOSTILE[name]
    with pytest.raises(BuildError) as raised:
        read(layer(*entries))
    assert why in raised.value.message
    assert raised.value.message.isprintable()


def test_reading_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In files, in the length of their names, and in what comes out of a small compressed layer."""
    many = layer(*(entry(f"{number:0100}") for number in range(50)))
    assert len(read(many).entries) == 50
    for limit, value in (("_MOST_ENTRIES", 49), ("_MOST_WORDS_BYTES", 4000), ("_MOST_BYTES", 20_000)):
        with monkeypatch.context() as patch:
            patch.setattr(manifest, limit, value)
            with pytest.raises(BuildError):
                read(many)
    with monkeypatch.context() as patch:
        # Of both layers together.
        patch.setattr(manifest, "_MOST_BYTES", len(many) + 1000)
        read(many)
        with pytest.raises(BuildError, match="more than"):
            read(many, many)


def test_a_header_that_has_no_end_is_not_read() -> None:
    """tarfile would read a name of any length into memory."""
    huge = tarfile.TarInfo("x")
    huge.type = tarfile.XHDTYPE
    huge.size = 1 << 30
    with pytest.raises(tarfile.ReadError, match="a header of"):
        read(huge.tobuf(format=tarfile.GNU_FORMAT))


def test_a_damaged_layer_is_an_error_of_ours(tmp_path: Path) -> None:
    """A blob whose digest is right, and which is no tar: whoever writes an archive may write this."""
    (tmp_path / "layer.tar").write_bytes(b"no tar" * 1000)
    digest = f"sha256:{hashlib.sha256(b'no tar' * 1000).hexdigest()}"
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest]}}
    image = BuiltImage(json.dumps(config).encode(), (tmp_path / "layer.tar",))
    write_archive(image, tmp_path / "image.tar", "a:b")
    with pytest.raises(BuildError, match="a layer is damaged"):
        read_manifest(tmp_path / "image.tar")


def test_layers_are_opened_in_turn_and_closed() -> None:
    """One at a time: an image has dozens."""
    seen: list[IO[bytes]] = []

    def opened() -> Iterator[IO[bytes]]:
        for _ in range(3):
            assert all(one.closed for one in seen)
            seen.append(io.BytesIO(layer(FOLDER)))
            yield seen[-1]

    turn = opened()
    manifest_of_layers([lambda: next(turn)] * 3)
    assert [one.closed for one in seen] == [True] * 3


def _archive(folder: Path, roots: list[Path], compression: str = "gzip", *, epoch: int = 0) -> Path:
    tars = []
    for number, root in enumerate(roots):
        tars.append(folder / f"{number}.tar")
        write_layer(root, tars[-1], epoch=epoch)
    digests = [f"sha256:{hashlib.sha256(tar.read_bytes()).hexdigest()}" for tar in tars]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": digests}}
    path = folder / "image.tar"
    write_archive(BuiltImage(json.dumps(config).encode(), tuple(tars)), path, "a:b", compression=compression)
    return path
