"""A policy wherever it is: in a config, in an image's labels, or in the filter that an image has."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import DockerException, ImageNotFound

from builder import registry
from builder.arch import ARCHES, Arch
from builder.archive import open_archive
from builder.config import ENVIRONMENT, Config, load_config
from builder.config_yaml import dotted, read_document
from builder.drivers.docker import connect
from builder.errors import RegistryError, SandboxError, ToolMissing, UsageError, VerificationFailed
from builder.output import ARCHIVE
from builder.plan import BuildPlan, make_plan
from builder.progress import Progress
from builder.reference import names_registry, parse_reference
from builder.seccomp import default_groups
from builder.seccomp.check import split
from builder.seccomp.request import CLIENT_GROUP, NETWORK_GROUP
from builder.seccomp.snapshot import DIGEST_LABEL, POLICY_LABEL, Snapshot, from_json

_KINDS = "a config.yaml, an image.tar, a folder dist/ARCH, or an image that Docker or a registry has"


@dataclass(frozen=True)
class Found:
    """A policy, and the digest of its policy.bpf."""

    policy: Snapshot
    digest: str


@dataclass(frozen=True)
class Programs:
    """A policy with what was compiled of it."""

    policy: Snapshot
    programs: dict[str, bytes]
    channel: int
    """The descriptor that compile_levels() was given."""
    digest: str
    """sha256:HEX of policy.bpf."""


def compiled(plan: BuildPlan) -> Programs:
    """What the plan's image will have."""
    return _programs(Snapshot.of(plan.policy, plan.arch), plan.policy_bpf, plan.spec.runtime)


def of_image(path: Path, root: Path) -> Programs:
    """What the image in the archive `path`, unpacked at `root`, has.

    VerificationFailed where its label, its runtime.json and its policy.bpf are not of one policy.
    """
    found = _of_archive(path)
    facts = json.loads((root / "sandbox/runtime.json").read_bytes())
    made = _programs(found.policy, (root / "sandbox/policy.bpf").read_bytes(), facts)
    digests = {"its label": found.digest, "its runtime.json": f"sha256:{facts['policy_sha256']}"}
    for where, digest in digests.items():
        if digest != made.digest:
            raise VerificationFailed(
                f"{path}: policy.bpf is {made.digest}, and {where} says {digest}", "build the image again"
            )
    return made


def _programs(policy: Snapshot, policy_bpf: bytes, facts: Mapping[str, Any]) -> Programs:
    """`facts` is runtime.json."""
    return Programs(
        policy,
        split(policy_bpf, facts["policy_instructions"]),
        facts["limits"]["open_files"],
        f"sha256:{hashlib.sha256(policy_bpf).hexdigest()}",
    )


def places(path: Path, config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """What brought each source of a policy (a group, syscalls.allow[2]): a line, a variable, or `default`."""
    document = read_document(path)
    found = {dotted(location): f"{path}:{line}" for location, line in document.lines.items()}
    if not config.syscalls.replace:
        found |= dict.fromkeys(default_groups(), "default")
    for index, group in enumerate(config.syscalls.groups):
        found.setdefault(group, found[f"syscalls.groups[{index}]"])
    for variable, (location, _) in ENVIRONMENT.items():
        if environ.get(variable, "").strip():
            key = dotted(location)
            found |= {key: variable} | {
                f"{key}[{index}]": variable for index in range(len(config.allowed_syscalls))
            }
    if "enable_network" in found:
        found[NETWORK_GROUP] = found["enable_network"]
        found[CLIENT_GROUP] = found.get("network.allow", found["enable_network"])
    return found


def open_policy(name: str, arch: Arch, progress: Progress) -> Found:
    """The policy that `name` stands for, which is one of _KINDS, for `arch`.

    Docker Engine may have another image under a name that has a registry in it, and of one architecture: it
    is asked for other names alone. UsageError for an image that is not for `arch`.
    """
    path = Path(name)
    if path.is_dir():
        return _of_archive(path / ARCHIVE, arch)
    if path.is_file():
        return _of_archive(path, arch) if tarfile.is_tarfile(path) else _of_config(path, arch, progress)
    if path.suffix in (".yaml", ".yml", ".tar"):
        raise UsageError(f"{name}: there is no such file", f"name {_KINDS}")
    return (_of_registry if names_registry(name) else _of_engine)(name, arch, progress)


def _of_config(path: Path, arch: Arch, progress: Progress) -> Found:
    config, warnings = load_config(path, os.environ)
    for warning in warnings:
        progress.warn(warning)
    made = compiled(make_plan(config, arch))
    return Found(made.policy, made.digest)


def _of_archive(path: Path, arch: Arch | None = None) -> Found:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file", "build it with `sandbox-build`")
    with open_archive(path) as archive:
        config = archive.image_config
    return _of_image(str(path), config.get("architecture"), _labels(config), arch)


def _labels(config: dict[str, Any]) -> dict[str, str]:
    """The labels in an OCI image config."""
    return (config.get("config") or {}).get("Labels") or {}


def _of_image(name: str, architecture: object, labels: dict[str, str], arch: Arch | None) -> Found:
    """The policy in an image's labels; UsageError where the image is not for `arch`, or its policy is not."""
    if arch is not None and architecture != arch.name:
        raise UsageError(
            f"{name}: it is for {architecture}, and {arch.name} is asked for",
            f"name an image for {arch.name}, or say --arch {architecture}",
        )
    found = _of_labels(name, labels)
    theirs = found.policy.arch.name
    if architecture != theirs:
        raise UsageError(
            f"{name}: the image is for {architecture}, and its policy for {theirs}", "build the image again"
        )
    return found


def _of_labels(name: str, labels: dict[str, str]) -> Found:
    if POLICY_LABEL not in labels:
        raise UsageError(
            f"{name}: the image has no label {POLICY_LABEL}",
            "it is no sandbox's, or of an older sandbox-build: build it again",
        )
    try:
        return Found(from_json(labels[POLICY_LABEL]), labels.get(DIGEST_LABEL, ""))
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", error.hint) from None


def _of_engine(name: str, arch: Arch, progress: Progress) -> Found:
    try:
        parse_reference(name.partition("@")[0])
        with closing(connect()) as client:
            image = client.images.get(name)
    except UsageError as error:
        reason = error.message
    except ImageNotFound:
        reason = "Docker Engine has no such image"
    except (ToolMissing, DockerException) as error:
        reason = f"Docker Engine was not asked: {error}"
    else:
        progress.note(f"{name}: from Docker Engine")
        return _of_image(name, image.attrs.get("Architecture"), dict(image.labels), arch)
    raise UsageError(f"{name}: there is no such file or folder, and {reason}", f"name {_KINDS}")


def _of_registry(name: str, arch: Arch, progress: Progress) -> Found:
    repository, tag = registry.open_image(name)
    image = registry.get_image(repository, tag, arch.name)
    config = registry.get_config(repository, image)
    progress.note(f"{name}: from the registry {name.partition('/')[0]}")
    try:
        return _of_image(name, config.get("architecture"), _labels(config), arch)
    except (KeyError, TypeError, AttributeError):
        raise RegistryError(f"{name}: what is there is no image") from None


def arch_of(name: str) -> Arch | None:
    """The architecture of an image that is a file; None for what has or needs another way to say it."""
    path = Path(name)
    archive = path / ARCHIVE if path.is_dir() else path
    if not archive.is_file() or not tarfile.is_tarfile(archive):
        return None
    try:
        with open_archive(archive) as opened:
            return ARCHES.get(str(opened.image_config.get("architecture")))
    except SandboxError:
        return None
