"""What the tests of pushing share: pushes without narration, and what skopeo finds afterwards."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from builder.errors import RegistryError
from builder.progress import Progress
from builder.registry import Image, push

WriteConfig = Callable[[dict[str, object]], Path]


def quiet() -> Progress:
    return Progress(quiet=True)


def push_all(archives: Sequence[Path], reference: str, *, if_absent: bool = False) -> str:
    """The digest behind the tag."""
    images = [Image(archive) for archive in archives]
    return push(images, reference, quiet(), if_absent=if_absent).digest


def push_one(archive: Path, reference: str, *, if_absent: bool = False) -> str:
    return push_all([archive], reference, if_absent=if_absent)


def refusal(archive: Path, reference: str, *, if_absent: bool = False) -> RegistryError:
    """The error that a push ends in."""
    with pytest.raises(RegistryError) as refused:
        push_one(archive, reference, if_absent=if_absent)
    return refused.value


def skopeo(*arguments: str) -> str:
    return subprocess.run(["skopeo", *arguments], check=True, capture_output=True, text=True).stdout


def remote_manifest(host: str, name: str = ":v1") -> str:
    """What a tag or digest stands for."""
    return skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{host}/team/sandbox{name}")


def remote_json(host: str, name: str = ":v1") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(remote_manifest(host, name))
    return found


def remote_digest(host: str) -> str:
    return f"sha256:{hashlib.sha256(remote_manifest(host).encode()).hexdigest()}"


def remote_tags(host: str) -> set[str]:
    """The tags of the repository; none where it is not there."""
    try:
        listed = skopeo("list-tags", "--tls-verify=false", f"docker://{host}/team/sandbox")
    except subprocess.CalledProcessError:
        return set()
    return set(json.loads(listed)["Tags"])
