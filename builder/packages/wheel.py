"""What a wheel would install: read from the file before anything is unpacked, and refused where it lies.

uv leaves out, renames or rewrites much of this in silence; a package that does such a thing is not to be had.
https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from pathlib import Path

from builder.errors import BuildError
from builder.packages.boundedzip import METHODS, OversizeError, check_method, opened
from builder.packages.names import is_of

_UNIX = 3
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ENCRYPTED = 0x1
_UTF8 = 0x800
_CHUNK_BYTES = 1 << 20
_RECORD_BYTES = 64 << 20
_METADATA_BYTES = 4 << 20
_SIGNATURES = ("RECORD.jws", "RECORD.p7s")
GENERATED = {"INSTALLER": b"uv", "REQUESTED": b""}
"""What an installer adds to a dist-info folder, besides RECORD (PEP 376)."""
_INSTALLERS = ("RECORD", *_SIGNATURES, *GENERATED, "direct_url.json", "uv_cache.json")
"""What is no wheel's own in a dist-info folder."""
_HASHES = ("sha256", "sha384", "sha512")
_HINT = "another version of it may be in order; tell its authors"

STARTUP = re.compile(r"[^/]*\.pth|(site|user)customize(\.[^/]*|/.*)?")
"""What `site` would run of a folder of packages."""


@dataclass(frozen=True)
class Content:
    """One file as it comes to lie in the folder of packages."""

    sha256: str
    """As RECORD spells it: sha256=..."""
    size: int
    executable: bool


@dataclass(frozen=True)
class Wheel:
    """A wheel that is in order."""

    path: Path
    info: str
    """Its dist-info folder."""
    files: Mapping[str, Content]
    """Path below the folder of packages -> content, of everything that is kept."""
    dropped: tuple[str, ...]
    """Paths that are not kept: programs (nothing can be executed in the jail), and what runs at startup."""

    @property
    def title(self) -> str:
        name, version = self.path.name.split("-")[:2]
        return f"{name} {version}"


def read_wheel(path: Path) -> Wheel:
    """The wheel at `path`; BuildError with its name and the entry's where it is not in order."""
    with _opened(path) as archive:
        return _read(path, archive)


def read_metadata(path: Path) -> Message:
    """What the wheel at `path` says of itself; BuildError where it is not in order."""
    with _opened(path) as archive:
        names = [one for one in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", one)]
        if len(names) != 1:
            raise _refused(path, f"it has {len(names)} files METADATA")
        content = _small(path, archive, names[0], _METADATA_BYTES)
        found = BytesParser(policy=compat32).parsebytes(content, headersonly=True)
    if not is_of(path, str(found["Name"]), str(found["Version"])):
        raise _refused(path, "its METADATA has another name or version")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with opened(path) as archive:
            yield archive
    except UnicodeDecodeError:
        raise _refused(path, "an entry's name is not UTF-8") from None
    except OversizeError as error:
        raise _refused(path, str(error)) from None
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, csv.Error),
        *(NotImplementedError, RuntimeError, ValueError),
    ) as error:
        raise _refused(path, f"it is no whole wheel: {error}") from None


def _small(path: Path, archive: zipfile.ZipFile, name: str, limit_bytes: int) -> bytes:
    """The content of an entry that is read into memory."""
    entry = archive.getinfo(name)
    check_method(entry)
    if entry.file_size > limit_bytes:
        raise _refused(path, f"its {name.rpartition('/')[2]} has more than {limit_bytes >> 20} MiB")
    return archive.read(entry)


def overlaps(wheels: Sequence[Wheel]) -> Iterator[str]:
    """Each file that two wheels have with another content, and each that is a folder in another."""
    owners: dict[str, Wheel] = {}
    for wheel in wheels:
        for name, content in wheel.files.items():
            other = owners.setdefault(name, wheel)
            if other.files[name].sha256 != content.sha256:
                yield f"{other.path.name} and {wheel.path.name} both have {name!r}, and not the same"
    for wheel in wheels:
        for name in wheel.files:
            for parent in _parents(name):
                if parent in owners:
                    yield f"{parent!r} is a file in {owners[parent].path.name}, a folder in {wheel.path.name}"


def _read(path: Path, archive: zipfile.ZipFile) -> Wheel:
    distribution = "-".join(path.name.split("-")[:2])
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        if why := _wrong(entry):
            raise _refused(path, f"its entry {entry.filename!r} {why}")
        if entry.is_dir():
            continue
        if entry.filename in entries:
            raise _refused(path, f"its entry {entry.filename!r} is there twice")
        entries[entry.filename] = entry
    for name in entries:
        for parent in _parents(name):
            if parent in entries:
                raise _refused(path, f"its entry {parent!r} is a file, and a folder")
    infos = {name.split("/")[0] for name in entries if name.split("/")[0].endswith(".dist-info")}
    if len(infos) != 1:
        raise _refused(path, f"it has {len(infos)} dist-info folders")
    (info,) = infos
    name, _, version = info.removesuffix(".dist-info").rpartition("-")
    if not is_of(path, name, version):
        raise _refused(path, f"its dist-info folder is {info!r}")
    contents = {name: _content(archive, entry) for name, entry in entries.items()}
    _check_record(path, archive, info, contents)
    files: dict[str, Content] = {}
    dropped = []
    for name, content in contents.items():
        if name.startswith(f"{info}/") and name.removeprefix(f"{info}/") in _INSTALLERS:
            continue
        target = _target(path, distribution, name)
        if target is None or STARTUP.fullmatch(target):
            dropped.append(target or name)
        elif files.setdefault(target, content).sha256 != content.sha256:
            raise _refused(path, f"its entry {name!r} would lie where another one does")
    return Wheel(path, info, files, tuple(sorted(dropped)))


def _wrong(entry: zipfile.ZipInfo) -> str | None:
    """What is wrong with an entry's name or kind; None for a file or folder below the wheel's root."""
    name = entry.filename.removesuffix("/")
    parts = name.split("/")
    kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == _UNIX else 0
    if name.startswith("/") or ".." in parts:
        return "leads out of the folder of packages"
    if "\\" in name or any(part in ("", ".") for part in parts):
        return "is no normal path"
    if not name.isascii() and not entry.flag_bits & _UTF8:
        return "is not said to be UTF-8"
    if _CONTROL.search(name):
        return "has a control character in it"
    if kind == stat.S_IFLNK:
        return "is a symlink"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is neither a file nor a folder"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if entry.compress_type not in METHODS:
        return "is compressed in an unusual way"
    return None


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Content:
    digest = hashlib.sha256()
    size = 0
    with archive.open(entry) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    executable = entry.create_system == _UNIX and bool(entry.external_attr >> 16 & 0o111)
    return Content(f"sha256={_base64(digest.digest())}", size, executable)


def _check_record(path: Path, archive: zipfile.ZipFile, info: str, contents: Mapping[str, Content]) -> None:
    record = f"{info}/RECORD"
    if record not in contents:
        raise _refused(path, "it has no RECORD")
    unnamed = {record, *(f"{info}/{name}" for name in _SIGNATURES)}
    listed = set()
    digests: dict[tuple[str, str], str] = {}
    text = _small(path, archive, record, _RECORD_BYTES).decode()
    for row in csv.reader(io.StringIO(text, newline="")):
        if not row:
            continue
        name, hashed = row[0], row[1] if len(row) > 1 else ""
        if name in unnamed:
            continue
        if name not in contents:
            raise _refused(path, f"its RECORD names {name!r}, which it does not have")
        listed.add(name)
        algorithm, _, value = hashed.partition("=")
        if algorithm not in _HASHES:
            raise _refused(path, f"its entry {name!r} is not what its RECORD says")
        if (name, algorithm) not in digests:
            digests[name, algorithm] = _digest(algorithm, contents[name], archive, name)
        if digests[name, algorithm] != value.rstrip("="):
            raise _refused(path, f"its entry {name!r} is not what its RECORD says")
    if extra := sorted(set(contents) - listed - unnamed):
        raise _refused(path, f"its RECORD does not name its entry {extra[0]!r}")


def _digest(algorithm: str, content: Content, archive: zipfile.ZipFile, name: str) -> str:
    """The hash of an entry as RECORD spells it, without the algorithm."""
    if algorithm == "sha256":
        return content.sha256.removeprefix("sha256=")
    digest = hashlib.new(algorithm)
    with archive.open(name) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return _base64(digest.digest())


def _target(path: Path, distribution: str, name: str) -> str | None:
    """Where uv puts an entry, below the folder of packages; None for a program."""
    folder = f"{distribution}.data/"
    if not name.startswith(folder):
        return name
    scheme, _, rest = name.removeprefix(folder).partition("/")
    if scheme == "scripts":
        return None
    if scheme == "headers":
        return f"include/{distribution.split('-')[0]}/{rest}"
    if scheme not in ("data", "purelib", "platlib") or not rest:
        raise _refused(path, f"its entry {name!r} belongs nowhere")
    return rest


def _parents(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts)))


def _base64(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _refused(path: Path, why: str) -> BuildError:
    return BuildError(f"{path.name}: {why}: not installed", _HINT)
