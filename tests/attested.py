"""A small image with everything that an SBOM may have to name, and the facts of its build."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.archive import BuiltImage, write_archive
from builder.attest import Attestations, BuildFacts, Wheel, read_claims
from builder.base import DebianPackage
from builder.layers import write_layer
from builder.tree.spec import REPORT_PATH, TREE_PATH
from tests.reports import LIBRARIES, ORIGINS, raw

_GFORTRAN, _QUADMATH = f"{LIBRARIES}/libgfortran.so.5.0.0", f"{LIBRARIES}/libquadmath.so.0"


def _package(name: str, version: str, source: str, origins: list[int]) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "architecture": "amd64",
        "source": source,
        "files": len(origins),
        "origins": origins,
    }


REPORT = raw(
    origins=[*ORIGINS, {"what": "/opt/app", "kind": "listed", "because": None, "text": "python_lib_path[0]"}],
    files=raw()["files"] | {"/opt/app": [["a.py", 5, 12], ["b.so", 5, 12]]},
    python=raw()["python"] | {"release": "3.13.5"},
    os_release={"id": "debian", "version_id": "13", "version_codename": "trixie"},
    debian=[
        _package("libc6", "2.41-12", "glibc", [1, 7]),
        _package("libssl3t64", "3.5.1-1+deb13u1", "openssl", [11]),
    ],
    apk=[],
    unclaimed=sorted(["/opt/app/a.py", "/opt/app/b.so", _GFORTRAN, _QUADMATH]),
)

FACTS = BuildFacts(
    config={
        "base": "debian:trixie",
        "image": {"repository": "example.org/team/app"},
    },
    epoch=1735689600,
    builder_version="9.9",
    wheels=(Wheel("scipy", "1.16", "5" * 64),),
    debs=(
        DebianPackage("unused", "1", "all", "unused", "d" * 64, 1, "pool/u.deb"),
        DebianPackage("libc6", "2.41-12", "amd64", "glibc", "c" * 64, 1, "pool/g.deb"),
    ),
    lock_sha256="1" * 64,
)


def make_image(
    folder: Path,
    more: Mapping[str, bytes] | None = None,
    *,
    without: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
) -> Path:
    """An archive of one layer with the files of REPORT, by jail path `more`, and /sandbox."""
    root = folder / "root"
    jail = {path: path.encode() for path in REPORT["unclaimed"]} | dict(more or {})
    files = {f"{TREE_PATH}{path}": content for path, content in jail.items()}
    files |= {
        "/sandbox/policy.bpf": b"the policy",
        "/sandbox/runtime.json": b'{"level": "chroot"}',
        REPORT_PATH: json.dumps(REPORT).encode(),
    }
    for path, content in files.items():
        if path not in without:
            (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            (root / path[1:]).write_bytes(content)
    write_layer(root, folder / "layer.tar", epoch=0)
    digest = f"sha256:{hashlib.sha256((folder / 'layer.tar').read_bytes()).hexdigest()}"
    created = "2024-02-03T04:05:06Z"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {"Labels": dict(labels or {})},
        "history": [{"created": created, "created_by": "sandbox-build: layer config"}],
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }
    image = BuiltImage(json.dumps(config, sort_keys=True).encode(), (folder / "layer.tar",))
    write_archive(image, folder / "image.tar", "example.org/team/app:1")
    return folder / "image.tar"


def digest_of(made: Attestations) -> str:
    """The image's digest as its provenance has it, in hexadecimal."""
    return read_claims(made.documents[-1].content).image
