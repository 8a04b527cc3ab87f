"""Two images are compared: each kind of difference is found, and named."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from builder.compare import Compared, compare
from tests.layered import EPOCH, FILE, File, Images, entry, folder, tar_of


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path)


def found(compared: Compared) -> list[tuple[str, str, str, str | None, str | None]]:
    assert compared.same == (not compared.differences)
    return [(one.where, one.path, one.what, one.before, one.after) for one in compared.differences]


def test_the_same(images: Images) -> None:
    """Two archives of one image differ in nothing, and nothing is to be sent."""
    compared = images.of([folder("etc"), FILE], [folder("etc"), FILE])
    assert (compared.same, compared.sent) == (True, ())
    assert compared.before.digest == compared.after.digest
    assert compared.total_bytes > 0


@pytest.mark.parametrize(
    ("after", "difference"),
    [
        (entry("etc/motd", b"hello\n", mode=0o600), ("mode", "0644", "0600")),
        (entry("etc/motd", b"hello\n", mode=0o4644), ("mode", "0644", "4644")),
        (entry("etc/motd", b"hello\n", uid=1, gid=2), ("owner", "0:0", "1:2")),
        (entry("etc/motd", b"hello\n", uname="me"), ("owner", "0:0", "0:0 (me)")),
        (entry("etc/motd", b"hello\n", mtime=EPOCH + 1), ("mtime", str(EPOCH), str(EPOCH + 1))),
        (entry("etc/motd", type=tarfile.SYMTYPE, linkname="x"), ("kind", "file", "symlink")),
    ],
)
def test_one_fact_of_a_file(after: File, difference: tuple[str, str, str], images: Images) -> None:
    """A mode, an owner, a date, a kind: each is found by itself, and named."""
    differences = found(images.of([FILE], [after]))
    assert ("layer one", "etc/motd", *difference) in differences
    assert {path for _, path, *_ in differences} == {"etc/motd"}
    if difference[0] != "kind":
        assert len(differences) == 1


def test_content(images: Images) -> None:
    """Another content of the same size is told with both sizes and hashes, and where it parts."""
    compared = images.of([FILE], [entry("etc/motd", b"hallo\n")])
    (one,) = compared.differences
    hashes = [f"6 bytes, sha256:{hashlib.sha256(text).hexdigest()}" for text in (b"hello\n", b"hallo\n")]
    assert (one.what, one.before, one.after) == ("content", *hashes)
    assert one.why == 'line 1: "hello" -> "hallo"'


def test_link_targets(images: Images) -> None:
    one, other = (entry("lib", type=tarfile.SYMTYPE, linkname=target) for target in ("usr/lib", "usr/lib64"))
    assert found(images.of([one], [other])) == [("layer one", "lib", "target", "usr/lib", "usr/lib64")]


def test_files_of_one_side(images: Images) -> None:
    """What one side alone has is told with its size."""
    compared = images.of([FILE, entry("old", b"1")], [FILE, folder("new")])
    assert [(one.path, one.what) for one in compared.differences] == [
        ("old", "only in BEFORE"),
        ("new", "only in AFTER"),
    ]
    assert compared.differences[0].why == f"file of 1 bytes, sha256:{hashlib.sha256(b'1').hexdigest()}"
    assert compared.differences[1].why == "folder"


def test_order(images: Images) -> None:
    """The same entries in another order are another image, and nothing but the order is told."""
    one, other = entry("a"), entry("b")
    assert found(images.of([one, other], [other, one])) == [
        ("layer one", "", "order of the entries", "a", "b")
    ]


def test_pax_headers(images: Images) -> None:
    """A header that changes nothing of the file is found all the same."""
    info, content = entry("etc/motd", b"hello\n")
    info.pax_headers = {"comment": "made here"}
    differences = found(images.of([FILE], [(info, content)]))
    assert differences == [("layer one", "etc/motd", "PAX header comment", None, "made here")]


def test_how_the_tar_is_written(images: Images) -> None:
    """The same entries in another form of tar: the first entry that is written otherwise is named."""
    files = [entry("first"), entry("sub/second", b"x" * 700)]
    paths = [
        images.write(name, {"one": tar_of(files, form)})
        for name, form in (("a", tarfile.PAX_FORMAT), ("b", tarfile.GNU_FORMAT))
    ]
    (one,) = compare("arm64", *paths).differences
    assert (one.path, one.what, one.why) == ("first", "how the tar is written", "from block 0 on")
    longer = images.write("c", {"one": tar_of(files) + b"\0" * 512})
    (other,) = compare("arm64", paths[0], longer).differences
    assert (other.path, other.what) == ("sub/second", "how the tar is written")


def test_compression_alone(images: Images) -> None:
    """The same tar packed otherwise is told as that, and is to be sent."""
    tar = tar_of([FILE])
    paths = [images.write(name, {"one": tar}, compression=name) for name in ("gzip", "zstd")]
    compared = compare("arm64", *paths)
    (one,) = compared.differences
    assert (one.where, one.what, one.why) == ("layer one", "compression", "the tar is the same")
    assert [str(text).partition(",")[0] for text in (one.before, one.after)] == ["gzip", "zstd"]
    assert [sent.what for sent in compared.sent] == ["manifest", "layer one"]


def test_config(images: Images) -> None:
    """A key of the image's config is named, also one that is only on one side."""
    tars = {"one": tar_of([FILE])}
    before = images.write("a", tars, created="2025", config={"Labels": {"x": "1"}, "Entrypoint": ["/init"]})
    after = images.write(
        "b", tars, created="2026", config={"Labels": {"y": "1"}, "Entrypoint": ["/init", "-v"]}
    )
    compared = compare("arm64", before, after)
    assert found(compared) == [
        ("config", "config.Entrypoint[1]", "", None, '"-v"'),
        ("config", "config.Labels.x", "", '"1"', None),
        ("config", "config.Labels.y", "", None, '"1"'),
        ("config", "created", "", '"2025"', '"2026"'),
    ]
    assert [sent.what for sent in compared.sent] == ["manifest", "config"]


def test_config_written_otherwise(images: Images) -> None:
    """The same JSON in other bytes is another digest, and said to be that."""
    tars = {"one": tar_of([FILE])}
    before = images.write("a", tars, created="2025", author="x")
    after = images.write("b", tars, author="x", created="2025")
    assert found(compare("arm64", before, after)) == [("config", "", "how it is written", None, None)]


def test_layers_are_paired_by_name(images: Images) -> None:
    """A layer that comes in between shifts no other; what moved to another layer is told once."""
    one, two, new = tar_of([entry("a")]), tar_of([entry("b"), entry("c", b"1")]), tar_of([entry("c", b"2")])
    before = images.write("before", {"low": one, "top": two})
    after = images.write("after", {"low": one, "new": new, "top": tar_of([entry("b")])})
    compared = compare("arm64", before, after)
    assert [one[:3] for one in found(compared) if one[0] != "config"] == [
        ("layer new", "", "only in AFTER"),
        ("layer new", "c", "moved"),
    ]
    moved = compared.differences[-1]
    assert (moved.before, moved.after) == ("layer top", "layer new")
    assert moved.why.count("file of 1 bytes") == 2
    assert [sent.what for sent in compared.sent] == ["manifest", "config", "layer new", "layer top"]


def test_layers_without_names(images: Images) -> None:
    """An image that names no layers is compared by their positions, with one that does."""
    before = images.write("before", {"low": tar_of([entry("a")]), "top": tar_of([FILE])}, named=False)
    after = images.write("after", {"low": tar_of([entry("a")]), "top": tar_of([entry("etc/motd")])})
    differences = [one for one in found(compare("arm64", before, after)) if one[0] != "config"]
    assert [one[:3] for one in differences] == [("layer 1", "etc/motd", "content")]


def test_order_of_layers(images: Images) -> None:
    one, two = tar_of([entry("a")]), tar_of([entry("b")])
    before = images.write("before", {"low": one, "top": two})
    after = images.write("after", {"top": two, "low": one})
    assert ("layers", "", "order", "low, top", "top, low") in found(compare("arm64", before, after))
