"""Images of a few files, each entry of their layers as a test wants it."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builder.archive import LAYER_HISTORY, BuiltImage, write_archive
from builder.compare import Compared, compare

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
        self.folder = path

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
            tars.append(self.folder / f"{name}-{layer}.tar")
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
        path = self.folder / f"{name}.tar"
        image = BuiltImage(json.dumps(document).encode(), tuple(tars))
        write_archive(image, path, "sandbox-test:x", compression=compression)
        return path

    def of(self, before: Sequence[File], after: Sequence[File]) -> Compared:
        """Two images of one layer, `one`, compared."""
        sides = [self.write(name, {"one": tar_of(its)}) for name, its in (("a", before), ("b", after))]
        return compare("arm64", *sides)


FILE = entry("etc/motd", b"hello\n", mode=0o644)
"""One file, as images have it."""


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    """Every path below `root` with its kind, mode, and content or target."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(root))] = (stat.filemode(status.st_mode), content)
    return found
