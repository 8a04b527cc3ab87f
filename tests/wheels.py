"""Wheels and source distributions that tests make themselves, honest ones and hostile ones."""

from __future__ import annotations

import base64
import hashlib
import io
import stat
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PURE = "py3-none-any"


@dataclass(frozen=True)
class Entry:
    """A member of a wheel with a mode of its own: 0o104755 is a file with the set-uid bit."""

    content: bytes
    mode: int = stat.S_IFREG | 0o644


def wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    files: Mapping[str, bytes | Entry] | None = None,
    *,
    requires: Sequence[str] = (),
    tag: str = PURE,
    scripts: Mapping[str, str] | None = None,
    record: Mapping[str, str] | None = None,
    unrecorded: Sequence[str] = (),
) -> Path:
    """Writes a wheel into `folder`; `record` has other hashes for RECORD, `unrecorded` what it leaves out."""
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"]
    metadata += [f"Requires-Dist: {requirement}\n" for requirement in requires]
    pure = str(tag == PURE).lower()
    members: dict[str, bytes | Entry] = dict(files if files is not None else {f"{name}.py": b"HERE = 1\n"})
    members[f"{info}/METADATA"] = "".join(metadata).encode()
    members[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: {pure}\nTag: {tag}\n".encode()
    )
    if scripts:
        programs = "".join(f"{script} = {target}\n" for script, target in scripts.items())
        members[f"{info}/entry_points.txt"] = f"[console_scripts]\n{programs}".encode()
    lines = []
    for entry_name, member in members.items():
        content = member.content if isinstance(member, Entry) else member
        if entry_name not in unrecorded:
            quoted = f'"{entry_name}"' if "," in entry_name else entry_name
            lines.append(f"{quoted},{(record or {}).get(entry_name, sha256_of(content))},{len(content)}")
    lines.append(f"{info}/RECORD,,")
    members[f"{info}/RECORD"] = "".join(f"{line}\n" for line in lines).encode()
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member_name, member in members.items():
            entry = member if isinstance(member, Entry) else Entry(member)
            header = zipfile.ZipInfo(member_name, (2020, 1, 1, 0, 0, 0))
            header.create_system = 3
            header.external_attr = entry.mode << 16
            archive.writestr(header, entry.content)
    return path


def sha256_of(content: bytes) -> str:
    """The hash of `content` as RECORD spells it."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"


def sdist(folder: Path, name: str, version: str = "1.0", files: Mapping[str, bytes] | None = None) -> Path:
    """Writes a source distribution: an old one with a setup.py alone, unless `files` has a pyproject.toml."""
    members = {"PKG-INFO": f"Metadata-Version: 1.1\nName: {name}\nVersion: {version}\n".encode()}
    members |= files or {}
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member_name, content in members.items():
            header = tarfile.TarInfo(f"{name}-{version}/{member_name}")
            header.size = len(content)
            header.mode = 0o644
            tar.addfile(header, io.BytesIO(content))
    return path
