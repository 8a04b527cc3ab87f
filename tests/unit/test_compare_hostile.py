"""Images that nobody of good will made are compared in bounded memory, or refused in a line."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path

import pytest

from builder.archive import BuiltImage, Descriptor, write_archive
from builder.compare import compare
from builder.compare import entries as entries_module
from builder.errors import BuildError
from tests.layered import FILE, Images, entry, tar_of


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path)


def test_damaged_though_its_manifest_is_the_same(images: Images) -> None:
    """An archive with a broken layer is not the same as the whole one."""
    path = images.write("a", {"one": tar_of([entry("a", os.urandom(4096))])})
    broken = path.with_name("broken.tar")
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        blob = max((member for member in tar if member.name.startswith("blobs/")), key=lambda one: one.size)
    content[blob.offset_data + 100] ^= 1
    broken.write_bytes(content)
    with pytest.raises(BuildError, match=r"broken\.tar: blobs/\S+ is damaged"):
        compare("arm64", path, broken)


def sparse() -> bytes:
    """A tar whose one file says that it has a gigabyte of holes."""
    info = tarfile.TarInfo("holes")
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "holes",
        "GNU.sparse.realsize": str(1 << 30),
    }
    content = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
    info.size = len(content)
    return tar_of([(info, content)])


def long_header() -> bytes:
    info = tarfile.TarInfo("x")
    info.pax_headers = {"comment": "c" * (2 << 20)}
    return tar_of([(info, b"")])


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (sparse(), "'holes' has holes"),
        (long_header(), r"b\.tar: .*a header of \d+ bytes"),
        (b"no tar at all" * 100, r"b\.tar: not an image archive of ours, or damaged"),
        (tar_of([entry("a", b"x" * 5000)])[:2000], r"b\.tar: not an image archive of ours, or damaged"),
    ],
)
def test_hostile_layers(hostile: bytes, message: str, images: Images) -> None:
    """A layer that would take all memory, or is none, is one line that says which archive it is in."""
    before = images.write("a", {"one": tar_of([FILE])})
    after = images.write("b", {"one": hostile})
    with pytest.raises(BuildError, match=message):
        compare("arm64", before, after)


@pytest.mark.parametrize("config", [{"history": [7]}, {"history": 7}, {"author": "DEEP"}])
def test_hostile_configs(config: dict[str, object], tmp_path: Path) -> None:
    """A config of another shape, or nested deeper than Python reads, is one line that says which archive."""
    document = {
        "architecture": "arm64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": []},
        **config,
    }
    content = json.dumps(document).replace('"DEEP"', "[" * 100_000 + "]" * 100_000).encode()
    path = tmp_path / "hostile.tar"
    write_archive_of(content, path)
    with pytest.raises(BuildError, match=r"hostile\.tar: not an image archive of ours, or damaged"):
        compare("arm64", path, path)


def write_archive_of(config: bytes, path: Path) -> None:
    """An archive without layers, with this very config."""
    plain = json.dumps({"rootfs": {"diff_ids": []}}).encode()
    write_archive(BuiltImage(plain, ()), path, "sandbox-test:x")
    with tarfile.open(path) as tar:
        files = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
    index = json.loads(files["index.json"])
    blob = "blobs/" + index["manifests"][0]["digest"].replace(":", "/")
    manifest = json.loads(files[blob])
    manifest["config"] |= Descriptor.of(manifest["config"]["mediaType"], config).to_json()
    content = json.dumps(manifest).encode()
    index["manifests"][0] |= Descriptor.of(index["manifests"][0]["mediaType"], content).to_json()
    made = {"index.json": json.dumps(index).encode()}
    for one in (config, content):
        made[f"blobs/sha256/{hashlib.sha256(one).hexdigest()}"] = one
    path.write_bytes(tar_of([entry(name, its) for name, its in made.items()]))


@pytest.mark.parametrize(("bound", "least"), [("_MOST_ENTRIES", 2), ("_MOST_WORDS_BYTES", 700)])
def test_bounds_of_entries(bound: str, least: int, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many entries, and as long names, as are held in memory; one more is refused."""
    monkeypatch.setattr(entries_module, bound, least)
    assert images.of([entry("a"), entry("b")], [entry("a"), entry("c")]).same is False
    with pytest.raises(BuildError, match="more entries, or longer names, than"):
        images.of([entry("a"), entry("b")], [entry("a"), entry("c"), entry("d" * 200)])


def test_large_files_are_compared_but_not_held(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is too large to be held differs without a reason."""
    monkeypatch.setattr(entries_module, "_MOST_EXPLAINED_BYTES", 10)
    (one,) = images.of([FILE], [entry("etc/motd", b"hallo\n")]).differences
    assert (one.what, one.why) == ("content", "")


def test_entries_of_one_name(images: Images) -> None:
    """A path that a tar has twice is compared first with first, and second with second."""
    compared = images.of([entry("a", b"1"), entry("a", b"2")], [entry("a", b"1"), entry("a", b"3")])
    assert [one.why for one in compared.differences] == ['line 1: "2" -> "3"']
