"""The archive: deterministic, whole or absent, and unpacked as it was written."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import resource
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.archive import BuiltImage, open_archive, unpack_archive, write_archive
from builder.errors import BuildError
from builder.layers import write_layer
from builder.progress import Progress
from builder.shelf import Shelf
from tests.layered import listing

EPOCH = 1735689600


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one of each kind of entry, among them names that only PAX headers hold."""
    root = tmp_path / "root"
    (root / "var/tree/usr/bin").mkdir(parents=True)
    (root / "var/tree/usr/bin/python").write_bytes(b"\x7fELF" * 1000)
    (root / "var/tree/usr/bin/python").chmod(0o755)
    (root / "var/tree/usr/bin/hard").hardlink_to(root / "var/tree/usr/bin/python")
    (root / "var/tree" / ("long" * 60)).write_text("x")
    (root / "var/tree/grün").write_text("")
    (root / "var/tree/secret").write_text("y")
    (root / "var/tree/secret").chmod(0o400)
    (root / "var/tree/absolute").symlink_to("/usr/share/zoneinfo/UTC")
    (root / "usr").symlink_to("var/tree/usr")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "sealed").mkdir()
    (root / "sealed/file").write_text("z")
    (root / "sealed").chmod(0o555)
    if os.geteuid() == 0:
        os.chown(root / "tmp", 1234, 1234)
    return root


def build(layers: list[Path]) -> BuiltImage:
    diff_ids = [sha256(layer.read_bytes()) for layer in layers]
    config = {"architecture": "arm64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    return BuiltImage(json.dumps(config).encode(), tuple(layers))


@pytest.fixture
def image(root: Path, tmp_path: Path) -> BuiltImage:
    layer = tmp_path / "layer.tar"
    write_layer(root, layer, epoch=EPOCH)
    return build([layer])


# Layers


def test_layer_entries(image: BuiltImage) -> None:
    """Entries are sorted, parents first, owned by 0:0, dated by the epoch, without names of this machine."""
    with tarfile.open(image.layers[0]) as tar:
        entries = tar.getmembers()
    names = [entry.name for entry in entries]
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert {(e.uid, e.gid, e.uname, e.gname, e.mtime) for e in entries} == {(0, 0, "", "", EPOCH)}
    modes = {entry.name: entry.mode for entry in entries}
    assert (modes["tmp"], modes["var/tree/secret"]) == (0o1777, 0o400)


def test_layer_bytes(root: Path, tmp_path: Path, image: BuiltImage) -> None:
    """A copy made in another order, at another time, gives the same bytes."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, (_, content) in reversed(listing(root).items()):
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/hard"):
            path.hardlink_to(path.with_name("python"))
        elif isinstance(content, Path):
            path.symlink_to(content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.mkdir(exist_ok=True)
    for name in listing(root):
        if not (copy / name).is_symlink():
            (copy / name).chmod(stat.S_IMODE((root / name).lstat().st_mode))
    write_layer(copy, tmp_path / "again.tar", epoch=EPOCH)
    assert (tmp_path / "again.tar").read_bytes() == image.layers[0].read_bytes()


# Archives


def test_archive_bytes(image: BuiltImage, tmp_path: Path) -> None:
    """The same image gives the same archive, and its digest is that of the manifest in it."""
    first = write_archive(image, tmp_path / "a.tar", "sandbox-python:latest")
    assert write_archive(image, tmp_path / "b.tar", "sandbox-python:latest") == first
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        manifest = tar.extractfile(f"blobs/{first.replace(':', '/')}")
        assert manifest is not None
        assert sha256(manifest.read()) == first


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_layer_of_the_cache_is_made_anew(image: BuiltImage, tmp_path: Path, damage: str) -> None:
    """Compressed layers are kept by what they are made of, and one that is not what it was is not used."""
    shelf = Shelf(tmp_path / "cache", "layers", Progress(quiet=True))
    first = write_archive(image, tmp_path / "a.tar", "x:y", shelf=shelf)
    (blob,) = (tmp_path / "cache/layers").glob("*/blob")
    written = blob.stat().st_mtime_ns
    assert write_archive(image, tmp_path / "b.tar", "x:y", shelf=shelf) == first
    assert blob.stat().st_mtime_ns == written  # it was not compressed again
    if damage == "gone":
        blob.unlink()
    else:
        content = blob.read_bytes()
        blob.write_bytes(content[:-1] if damage == "cut" else b"\0" + content[1:])
    assert write_archive(image, tmp_path / "c.tar", "x:y", shelf=shelf) == first
    assert (tmp_path / "c.tar").read_bytes() == (tmp_path / "a.tar").read_bytes()


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressions(image: BuiltImage, root: Path, tmp_path: Path, compression: str) -> None:
    """Either way the image unpacks to what it was made of; the digest says which way."""
    path = tmp_path / "a.tar"
    digest = write_archive(image, path, "x:y", compression=compression)
    with open_archive(path) as archive:
        assert {layer.media_type.rpartition("+")[2] for layer in archive.layers} == {compression}
    unpack_archive(path, tmp_path / "again")
    assert listing(tmp_path / "again") == listing(root)
    other = {"gzip": "zstd", "zstd": "gzip"}[compression]
    assert write_archive(image, tmp_path / "b.tar", "x:y", compression=other) != digest


def test_two_indexes(image: BuiltImage, tmp_path: Path) -> None:
    """The OCI index and Docker's manifest.json name the same blobs, which are what their digests say."""
    write_archive(image, tmp_path / "a.tar", "localhost:5000/team/sandbox:v1")
    with tarfile.open(tmp_path / "a.tar") as tar:
        content = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    (described,) = json.loads(content["index.json"])["manifests"]
    names = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
    assert [described["annotations"][name] for name in names] == ["localhost:5000/team/sandbox:v1"] * 2
    manifest = json.loads(content["blobs/" + described["digest"].replace(":", "/")])
    blobs = [manifest["config"], *manifest["layers"]]
    for blob in blobs:
        stored = content["blobs/" + blob["digest"].replace(":", "/")]
        assert (sha256(stored), len(stored)) == (blob["digest"], blob["size"])
    (docker,) = json.loads(content["manifest.json"])
    assert docker["RepoTags"] == ["localhost:5000/team/sandbox:v1"]
    assert [docker["Config"], *docker["Layers"]] == [
        "blobs/" + blob["digest"].replace(":", "/") for blob in blobs
    ]
    assert content[docker["Config"]] == image.config
    assert gzip.decompress(content[docker["Layers"][0]]) == image.layers[0].read_bytes()
    assert json.loads(content["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_wrong_layers(image: BuiltImage, tmp_path: Path) -> None:
    """Layers that are not the config's make no archive."""
    image.layers[0].write_bytes(image.layers[0].read_bytes() + b"\0")
    with pytest.raises(BuildError, match="not those that the image's config names"):
        write_archive(image, tmp_path / "a.tar", "x:y")
    assert [path.name for path in tmp_path.glob("*a.tar*")] == []


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Makes every write past the first `size` bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk(image: BuiltImage, tmp_path: Path) -> None:
    """A write that fails half-way leaves an older archive as it was, and nothing else."""
    folder = tmp_path / "dist"
    folder.mkdir()
    write_archive(image, folder / "a.tar", "x:y")
    before = (folder / "a.tar").read_bytes()
    with small_disk(2000), pytest.raises(BuildError, match=r"a\.tar: not written: File too large"):
        write_archive(image, folder / "a.tar", "x:z")
    assert [path.name for path in folder.iterdir()] == ["a.tar"]
    assert (folder / "a.tar").read_bytes() == before


def test_no_folder(image: BuiltImage, tmp_path: Path) -> None:
    """An output folder that is not there is an error that names the file."""
    with pytest.raises(BuildError, match=r"absent/a\.tar: not written: No such file or directory"):
        write_archive(image, tmp_path / "absent/a.tar", "x:y")


# Unpacking


def test_round_trip(image: BuiltImage, root: Path, tmp_path: Path) -> None:
    """What was written is what is unpacked: content, modes, links, read-only folders, and hard links."""
    write_archive(image, tmp_path / "a.tar", "x:y")
    unpack_archive(tmp_path / "a.tar", tmp_path / "unpacked")
    assert listing(tmp_path / "unpacked") == listing(root)
    unpacked = tmp_path / "unpacked/var/tree/usr/bin"
    assert (unpacked / "hard").samefile(unpacked / "python")
    assert (unpacked / "python").stat().st_mtime == EPOCH


def test_later_layers_win(tmp_path: Path) -> None:
    """A file of a later layer takes the place of a file or symlink, and never goes through the symlink."""
    (tmp_path / "outside").write_text("untouched")
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for layer in (lower, upper):
        layer.mkdir()
    (lower / "link").symlink_to(tmp_path / "outside")
    (lower / "file").write_text("old")
    (upper / "link").write_text("new")
    (upper / "file").write_text("new")
    layers = []
    for layer in (lower, upper):
        write_layer(layer, tmp_path / f"{layer.name}.tar", epoch=0)
        layers.append(tmp_path / f"{layer.name}.tar")
    write_archive(build(layers), tmp_path / "a.tar", "x:y")
    unpack_archive(tmp_path / "a.tar", tmp_path / "unpacked")
    assert {path.name: path.read_text() for path in (tmp_path / "unpacked").iterdir()} == {
        "link": "new",
        "file": "new",
    }
    assert (tmp_path / "outside").read_text() == "untouched"


def test_existing_folder(image: BuiltImage, tmp_path: Path) -> None:
    """Nothing is unpacked over what is there."""
    write_archive(image, tmp_path / "a.tar", "x:y")
    (tmp_path / "unpacked").mkdir()
    with pytest.raises(BuildError, match=r"unpacked: a\.tar cannot be unpacked: File exists"):
        unpack_archive(tmp_path / "a.tar", tmp_path / "unpacked")


@pytest.mark.parametrize("damage", ["absent", "empty", "text", "half", "flipped", "foreign"])
def test_damage(image: BuiltImage, tmp_path: Path, damage: str) -> None:
    """A file that is absent, cut, changed, or somebody else's is an error that names it."""
    path = tmp_path / "a.tar"
    write_archive(image, path, "x:y")
    whole = bytearray(path.read_bytes())
    with open_archive(path) as archive, tarfile.open(path) as tar:
        blob = tar.getmember(archive.layers[0].member).offset_data
    whole[blob + 20] ^= 0xFF
    match damage:
        case "absent":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("no archive" * 1000)
        case "half":
            path.write_bytes(path.read_bytes()[: blob + 100])
        case "flipped":
            path.write_bytes(whole)
        case "foreign":
            with tarfile.open(path, "w") as tar:
                tar.addfile(tarfile.TarInfo("file"))
    with pytest.raises(BuildError, match=r"a\.tar"):
        unpack_archive(path, tmp_path / "unpacked")


def test_changed_blob(image: BuiltImage, tmp_path: Path) -> None:
    """A blob that is not what its digest says is never handed out; with such a config nothing is opened."""
    path = tmp_path / "a.tar"
    write_archive(image, path, "x:y")
    written = path.read_bytes()
    with open_archive(path) as archive, archive.blob(archive.layers[0]) as file:
        layer = file.read()
    path.write_bytes(written.replace(layer, layer[:-1] + bytes([layer[-1] ^ 1])))
    with open_archive(path) as archive, pytest.raises(BuildError, match=r"blobs/sha256/.* is damaged"):
        archive.blob(archive.layers[0])
    path.write_bytes(written.replace(b'"arm64"', b'"amd64"'))
    with pytest.raises(BuildError, match=r"blobs/sha256/.* is damaged"), open_archive(path):
        pass


def test_ordinary_user(image: BuiltImage) -> None:
    """Unpacking needs no privilege, though the layers' files are root's: the user owns them then."""
    us = os.geteuid()
    user = us or 65534
    with tempfile.TemporaryDirectory() as folder:
        write_archive(image, Path(folder) / "a.tar", "x:y")
        os.chown(folder, user, -1)
        os.seteuid(user)
        try:
            unpack_archive(Path(folder) / "a.tar", Path(folder) / "unpacked")
        finally:
            os.seteuid(us)
        assert {path.lstat().st_uid for path in (Path(folder) / "unpacked").rglob("*")} == {user}
