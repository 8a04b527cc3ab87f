"""Files that are made to exhaust whoever reads them: refused soon, in little memory, by their name."""

from __future__ import annotations

import gzip
import io
import resource
import tarfile
import zipfile
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.packages import boundedzip, sdist, wheel
from builder.packages.sdist import static_requires
from builder.packages.wheel import read_metadata, read_wheel
from builder.progress import Progress
from builder.shelf import Shelf
from builder.transfer import without_passwords
from tests.wheels import sdist as make_sdist
from tests.wheels import wheel as make_wheel

PROJECT = b'[build-system]\nrequires = ["flit_core>=3"]\n'


def refused(path: Path) -> str:
    with pytest.raises(BuildError) as caught:
        read_wheel(path)
    assert path.name in caught.value.message
    return caught.value.message


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_what_an_sdist_needs_is_found(tmp_path: Path) -> None:
    """Behind extended headers, in a zip, and where there is no pyproject.toml."""
    assert static_requires(make_sdist(tmp_path, "a")) == ["setuptools>=40.8.0"]
    assert static_requires(make_sdist(tmp_path, "a", files={"pyproject.toml": PROJECT})) == ["flit_core>=3"]
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / "b-1.0.tar.gz"
        with tarfile.open(path, "w:gz", format=kind) as tar:
            for name, content in {f"b-1.0/{'x' * 200}": b"x" * 999, "b-1.0/pyproject.toml": PROJECT}.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime = len(content), 1.5
                tar.addfile(entry, io.BytesIO(content))
        assert static_requires(path) == ["flit_core>=3"]
    with zipfile.ZipFile(tmp_path / "c-1.0.zip", "w") as archive:
        archive.writestr("c-1.0/pyproject.toml", PROJECT)
    assert static_requires(tmp_path / "c-1.0.zip") == ["flit_core>=3"]


def test_an_extended_header_of_any_size(tmp_path: Path) -> None:
    """It is passed over, not read into memory."""
    size = 400 << 20
    header = tarfile.TarInfo("PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, size
    path = tmp_path / "a-1.0.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    before = peak_kib()
    assert static_requires(path) == ["setuptools>=40.8.0"]
    assert peak_kib() - before < 50_000


def test_an_sdist_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_sdist(tmp_path, "a", files={"x": bytes(5 << 20), "y": b"", "z": b""})
    monkeypatch.setattr(sdist, "_TAR_BYTES", 4 << 20)
    with pytest.raises(BuildError, match=r"a-1\.0\.tar\.gz: unpacked it has more than 4 MiB"):
        static_requires(path)
    monkeypatch.undo()
    monkeypatch.setattr(sdist, "ENTRIES", 2)
    with pytest.raises(BuildError, match=r"a-1\.0\.tar\.gz: it has more than 2 entries"):
        static_requires(path)


@pytest.mark.parametrize("cut", [0, 10, 100])
def test_an_sdist_that_is_none(tmp_path: Path, cut: int) -> None:
    path = make_sdist(tmp_path, "a", files={"x": bytes(range(256)) * 9})
    path.write_bytes(path.read_bytes()[:cut] or b"no gzip")
    with pytest.raises(BuildError, match="it is no whole sdist"):
        static_requires(path)


def test_a_wheel_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In all, for its size, and in the number of its entries. The same wheel is good within the limits."""
    stored = make_wheel(tmp_path, "a", files={"a.bin": bytes(65 << 20), "a.py": b""})
    path = tmp_path / "small" / stored.name
    path.parent.mkdir()
    with zipfile.ZipFile(stored) as before, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as after:
        for name in before.namelist():
            after.writestr(name, before.read(name))
    assert "unpacked it is more than 200 times as large as it is" in refused(path)
    monkeypatch.setattr(boundedzip, "_RATIO", 2000)
    assert "a.bin" in read_wheel(path).files
    monkeypatch.setattr(boundedzip, "UNPACKED_BYTES", 64 << 20)
    assert "unpacked it has more than 64 MiB" in refused(path)
    monkeypatch.setattr(boundedzip, "ENTRIES", 3)
    assert "it has more than 3 entries" in refused(path)


def test_a_list_of_entries_of_any_size(tmp_path: Path) -> None:
    """The end of a zip file says how large it is, and it would be read at once."""
    path = tmp_path / "a-1.0-py3-none-any.whl"
    count, size = 65534, 200 << 20
    end = b"PK\5\6" + bytes(4) + count.to_bytes(2, "little") * 2 + size.to_bytes(4, "little") + bytes(6)
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(end)
    before = peak_kib()
    assert "its list of entries has more than 24 MiB" in refused(path)
    assert peak_kib() - before < 50_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_without_bound_is_refused(tmp_path: Path, method: int) -> None:
    path = make_wheel(tmp_path, "a")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more.py", b"", method)
    assert "'more.py' is compressed in an unusual way" in refused(path)


def test_a_record_and_metadata_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_wheel(tmp_path, "a", requires=["b"] * 200_000)
    monkeypatch.setattr(wheel, "_METADATA_BYTES", 1 << 20)
    with pytest.raises(BuildError, match=r"a-1\.0-py3-none-any\.whl: its METADATA has more than 1 MiB"):
        read_metadata(path)
    monkeypatch.setattr(wheel, "_RECORD_BYTES", 20)
    assert "its RECORD has more than 0 MiB" in refused(path)
    monkeypatch.undo()
    # More than Python's csv takes for one field.
    assert "it is no whole wheel: field larger" in refused(
        make_wheel(tmp_path, "a", record={"a.py": "sha256=" + "x" * 200_000})
    )


def test_a_wheel_whose_insides_are_of_another(tmp_path: Path) -> None:
    """By its dist-info folder, and by its metadata."""
    made = make_wheel(tmp_path, "a")
    other = made.rename(tmp_path / "b-1.0-py3-none-any.whl")
    assert "its dist-info folder is 'a-1.0.dist-info'" in refused(other)
    with pytest.raises(BuildError, match="its METADATA has another name or version"):
        read_metadata(other)
    newer = other.rename(tmp_path / "a-2.0-py3-none-any.whl")
    assert "its dist-info folder is 'a-1.0.dist-info'" in refused(newer)
    assert read_metadata(newer.rename(tmp_path / "A-1.0.0-py3-none-any.whl"))["Name"] == "a"


@pytest.mark.parametrize("key", ["../../etc", "..", "", "/etc", "a/b", "a\n", "x.lock"])
def test_a_key_is_never_a_path(tmp_path: Path, key: str) -> None:
    """Neither is something found by it, nor made."""
    (tmp_path / "etc").mkdir()
    shelf = Shelf(tmp_path / "cache", "built", Progress(quiet=True))
    with pytest.raises(BuildError, match="is no name of an entry"):
        shelf.find(key)
    with pytest.raises(BuildError, match="is no name of an entry"):
        shelf.open(key, lambda _: None)


def test_a_password_may_have_an_at_sign() -> None:
    text = "see https://user:p@ss@host/a@b and http://t@h"
    assert without_passwords(text) == "see https://***@host/a@b and http://***@h"
