"""Archives whose images say that they have a policy, and the command that reads it."""

from __future__ import annotations

import json
from pathlib import Path

from builder.arch import ARCHES
from builder.archive import BuiltImage, write_archive
from builder.seccomp import Request, effective_policy
from builder.seccomp.snapshot import policy_labels
from tests.conftest import Result, sandbox_build


def policy(*arguments: str) -> Result:
    return sandbox_build("policy", *arguments)


def labelled(folder: Path, name: str, labels: dict[str, str], architecture: str = "amd64") -> Path:
    """An archive without layers whose image has these labels."""
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    path = folder / f"{name}.tar"
    write_archive(BuiltImage(json.dumps(config).encode(), ()), path, f"sandbox-test:{name}")
    return path


def of(request: Request, folder: Path, name: str, arch: str = "amd64") -> Path:
    """An archive whose image says that it has the policy of `request`."""
    made = effective_policy(request, ARCHES[arch])
    return labelled(folder, name, policy_labels(made, ARCHES[arch], b""), arch)
