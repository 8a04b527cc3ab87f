"""Two images are compared: each kind of difference is found, named, and told with its reason."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from builder.archive import LAYER_HISTORY, BuiltImage, write_archive
from builder.cli import commands
from builder.compare import Compared, Difference, compare, pairs
from builder.compare import entries as entries_module
from builder.compare.contents import changed_keys, shown, why
from builder.errors import BuildError, UsageError

EPOCH = 1735689600

File = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"", **facts: Any) -> File:
    """A file as a layer of ours has it, but for what `facts` say."""
    info = tarfile.TarInfo(name)
    info.mtime = EPOCH
    info.size = len(content)
    for fact, value in facts.items():
        setattr(info, fact, value)
    return info, content


def folder(name: str, **facts: Any) -> File:
    return entry(name, type=tarfile.DIRTYPE, mode=0o755, **facts)


def tar_of(files: Sequence[File], form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for info, content in files:
            tar.addfile(copy.copy(info), io.BytesIO(content))
    return stream.getvalue()


class Images:
    """Writes archives into a folder, each with named layers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(
        self,
        name: str,
        layers: dict[str, bytes],
        *,
        compression: str = "gzip",
        named: bool = True,
        **config: Any,
    ) -> Path:
        tars = []
        for layer, content in layers.items():
            tars.append(self._path / f"{name}-{layer}.tar")
            tars[-1].write_bytes(content)
        history = [{"created_by": LAYER_HISTORY + layer} for layer in layers] if named else []
        document = {
            "architecture": "arm64",
            "os": "linux",
            "history": history,
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in layers.values()],
            },
            **config,
        }
        path = self._path / f"{name}.tar"
        image = BuiltImage(json.dumps(document).encode(), tuple(tars))
        write_archive(image, path, "sandbox-test:x", compression=compression)
        return path

    def of(self, before: Sequence[File], after: Sequence[File]) -> Compared:
        """Two images of one layer, `one`, compared."""
        sides = [self.write(name, {"one": tar_of(its)}) for name, its in (("a", before), ("b", after))]
        return compare("arm64", *sides)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path)


def found(compared: Compared) -> list[tuple[str, str, str, str | None, str | None]]:
    assert compared.same == (not compared.differences)
    return [(one.where, one.path, one.what, one.before, one.after) for one in compared.differences]


FILE = entry("etc/motd", b"hello\n", mode=0o644)


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


# Why


def pyc(
    source: bytes = b"S" * 8, code: bytes = b"code", magic: bytes = b"\xf3\r\r\n", flags: int = 1
) -> bytes:
    return magic + flags.to_bytes(4, "little") + source + code


@pytest.mark.parametrize(
    ("path", "before", "after", "reason"),
    [
        ("a.pyc", pyc(), pyc(b"T" * 8), "the hash of the source differs, the code is the same"),
        (
            "a.pyc",
            pyc(),
            pyc(code=b"cOde"),
            "the code differs, from its byte 1 on; the hash of the source is the same",
        ),
        (
            "a.pyc",
            pyc(),
            pyc(b"T" * 8, b"co"),
            "the hash of the source differs, and so does the code, from its byte 2 on",
        ),
        (
            "a.pyc",
            pyc(flags=0),
            pyc(b"T" * 8, flags=0),
            "the date or size of the source differs, the code is the same",
        ),
        ("a.pyc", pyc(), pyc(magic=b"\xcb\r\r\n"), "compiled by another version of Python"),
        (
            "a.pyc",
            pyc(),
            pyc(flags=3),
            "compiled with other flags: whether a source is checked, and by its hash or its date",
        ),
        ("a.pyc", b"short\0", b"shorter\0", "from byte 5 on"),
        ("r.json", b'{"a": {"b": [1, 2]}}', b'{"a": {"b": [1, 3]}}', "a.b[1]: 2 -> 3"),
        ("r.json", b'{"a": null}', b"{}", "a: null -> nothing"),
        ("r.json", b"[1]", b'"x"', '[1] -> "x"'),
        ("r.json", b'{"a": 1}', b'{"a":1}', "the same JSON, written in another way"),
        ("r.json", b'{"a": 1', b'{"a": 2', 'line 1: "{"a": 1" -> "{"a": 2"'),
        ("r.json", b"[" * 100_000, b"[" * 100_001, f'line 1: "…{"[" * 20}" -> "…{"[" * 21}"'),
        ("motd", b"a\nb\nc\n", b"a\nX\nc\n", 'line 2: "b" -> "X"'),
        ("motd", b"a\n", b"a\nb\n", 'line 2: "" -> "b"'),
        ("motd", b"a", b"a\nb", 'line 2: no such line -> "b"'),
        ("motd", b"\x1b[2J", b"x", 'line 1: "\\x1b[2J" -> "x"'),
        ("lib.so", b"\x7fELF\0abc", b"\x7fELF\0abd", "from byte 7 on"),
        ("latin", b"\xe9", b"\xe8", "from byte 0 on"),
    ],
)
def test_why(path: str, before: bytes, after: bytes, reason: str) -> None:
    assert why(path, before, after) == reason


def test_many_keys() -> None:
    """Of a document that is another one altogether a few keys are told."""
    before, after = ({str(number): value for number in range(100)} for value in (1, 2))
    told = why("x.json", json.dumps(before).encode(), json.dumps(after).encode())
    assert told.endswith("; and more keys")
    assert told.count("1 -> 2") == 5
    assert len(changed_keys([1] * 5000, [2] * 5000)) == 1000


def test_long_texts_are_cut_to_where_they_differ() -> None:
    one, other = shown("x" * 500 + "A" + "y" * 500, "x" * 500 + "B" + "y" * 500)
    assert one == "…" + "x" * 20 + "A" + "y" * 39 + "…"
    assert other == "…" + "x" * 20 + "B" + "y" * 39 + "…"


# What is no image of ours


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
    """A tar whose one file says that it has a terabyte of holes."""
    info = tarfile.TarInfo("holes")
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "holes",
        "GNU.sparse.realsize": str(1 << 40),
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


# The command


Dist = Callable[[str, dict[str, bytes]], Path]


@pytest.fixture
def dist(tmp_path: Path, images: Images) -> Dist:
    """Makes a folder dist with an image of one file for each architecture."""

    def make(name: str, contents: dict[str, bytes]) -> Path:
        for arch, content in contents.items():
            path = images.write(f"{name}-{arch}", {"one": tar_of([entry("f", content)])}, architecture=arch)
            (tmp_path / name / arch).mkdir(parents=True)
            path.rename(tmp_path / name / arch / "image.tar")
        return tmp_path / name

    return make


def test_what_is_paired(dist: Dist) -> None:
    """An archive, the folder that holds it, and dist pair by architecture."""
    one, other = (dist(name, {"amd64": b"1", "arm64": b"1"}) for name in ("one", "other"))
    archives = [(arch, one / arch / "image.tar", other / arch / "image.tar") for arch in ("amd64", "arm64")]
    assert list(pairs(one, other)) == archives
    assert list(pairs(one / "arm64", other)) == archives[1:]
    assert list(pairs(one, other / "amd64/image.tar")) == archives[:1]
    assert list(pairs(one / "arm64/image.tar", other / "arm64")) == archives[1:]


def test_what_has_no_pair(dist: Dist, tmp_path: Path) -> None:
    """An architecture that one side lacks, and a path where nothing is, are errors that say so."""
    one, other = dist("one", {"amd64": b"1", "arm64": b"1"}), dist("other", {"amd64": b"1"})
    with pytest.raises(UsageError, match=r"one has an image for arm64, and .*other has none"):
        list(pairs(one, other))
    with pytest.raises(UsageError, match=r"one/arm64 has an image for arm64, and .*other has none"):
        list(pairs(one / "arm64", other))
    with pytest.raises(UsageError, match="nothing: no image is there"):
        list(pairs(one, tmp_path / "nothing"))


def test_the_command(dist: Dist) -> None:
    """0 for the same, 1 for a difference of one architecture, and the text says which and what to send."""
    one, same, other = (
        dist(name, {"amd64": b"1", "arm64": content})
        for name, content in (("one", b"1\n"), ("same", b"1\n"), ("other", b"2\n"))
    )
    run = CliRunner().invoke(commands, ["compare", str(one), str(same)])
    assert run.exit_code == 0
    assert [line.split(": ")[:2] for line in run.stdout.splitlines()] == [
        ["amd64", "the same"],
        ["arm64", "the same"],
    ]
    run = CliRunner().invoke(commands, ["compare", str(one), str(other)])
    assert run.exit_code == 1
    lines = run.stdout.splitlines()
    assert lines[0].startswith("amd64: the same: sha256:")
    assert lines[1].startswith("arm64: sha256:")
    assert lines[2] == "  layer one"
    assert lines[3].startswith("    f content: 2 bytes, sha256:")
    assert lines[4] == '      line 1: "1" -> "2"'
    assert lines[5].startswith("  to send: 0.00 of 0.00 MB (manifest ")

    run = CliRunner().invoke(commands, ["compare", "--json", str(one), str(other)])
    data = json.loads(run.stdout)
    assert (run.exit_code, data["same"]) == (1, False)
    assert [(one["arch"], one["same"]) for one in data["images"]] == [("amd64", True), ("arm64", False)]
    (difference,) = data["images"][1]["differences"]
    assert Difference(**difference).why == 'line 1: "1" -> "2"'
    assert [one["what"] for one in data["images"][1]["sent"]] == ["manifest", "config", "layer one"]


def test_the_same_change_of_many_files(images: Images) -> None:
    """One line for what many files share; a name moves no terminal's cursor."""
    names = ["a\x1b[2J", *"bcde"]
    for name, mtime in (("x", 1), ("y", 2)):
        images.write(name, {"one": tar_of([entry(path, mtime=mtime) for path in names])})
    folder_ = str(images._path)
    run = CliRunner().invoke(commands, ["compare", f"{folder_}/x.tar", f"{folder_}/y.tar"])
    assert run.stdout.splitlines()[2] == "    a\\x1b[2J, b, c and 2 more mtime: 1 -> 2"
