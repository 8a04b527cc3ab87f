"""Debian packages that tests make themselves, honest ones and hostile ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from builder.base.debian_package import DebianPackage

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".xz": lzma.compress,
    ".zst": lambda content: zstandard.ZstdCompressor().compress(content),
}


@dataclass(frozen=True)
class Entry:
    """An entry of a package's tar: a file, unless `type` says otherwise."""

    content: bytes = b""
    mode: int = 0o644
    type: bytes = tarfile.REGTYPE
    link: str = ""
    pax: Mapping[str, str] = field(default_factory=dict)
    """Extended headers, which go before what the tar says otherwise."""


def folder(mode: int = 0o755) -> Entry:
    return Entry(mode=mode, type=tarfile.DIRTYPE)


def link(target: str) -> Entry:
    return Entry(mode=0o777, type=tarfile.SYMTYPE, link=target)


def deb(
    path: Path,
    files: Mapping[str, bytes | Entry] | Sequence[tuple[str, Entry]],
    *,
    name: str = "one",
    version: str = "1.0",
    arch: str = "all",
    control: str = "",
    says: str | None = None,
    kind: str = ".xz",
) -> Path:
    """Writes a .deb with these files, in their order; `control` are further fields of its description.

    `says` is the whole description.
    """
    if says is None:
        says = f"Package: {name}\nVersion: {version}\nArchitecture: {arch}\n"
        says += f"Maintainer: Nobody <x@example.org>\n{control}Description: a package\n of a test\n"
    entries = files.items() if isinstance(files, Mapping) else files
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": COMPRESSORS[".gz"](_tar([("./control", Entry(says.encode()))])),
        f"data.tar{kind}": COMPRESSORS[kind](
            _tar([(key, one if isinstance(one, Entry) else Entry(one)) for key, one in entries])
        ),
    }
    content = b"!<arch>\n"
    for part, data in parts.items():
        content += f"{part:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(data):<10}`\n".encode()
        content += data + b"\n" * (len(data) % 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def described(path: Path, archive: Path, *, arch: str = "all", source: str = "") -> DebianPackage:
    """What a list of `archive` would say of a .deb in it, whose name is that of Debian's."""
    name, version, _ = path.name.split("_")
    content = path.read_bytes()
    return DebianPackage(
        *(name, version, arch, source or name),
        *(hashlib.sha256(content).hexdigest(), len(content)),
        str(path.relative_to(archive)),
    )


def _tar(entries: Sequence[tuple[str, Entry]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, entry in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.type, info.linkname = (
                *(len(entry.content), entry.mode),
                *(entry.type, entry.link),
            )
            info.mtime = 1_700_000_000
            tar.format, info.pax_headers = (
                tarfile.PAX_FORMAT if entry.pax else tarfile.GNU_FORMAT,
                {**entry.pax},
            )
            tar.addfile(info, io.BytesIO(entry.content))
    return made.getvalue()
