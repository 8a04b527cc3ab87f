"""Config + architecture -> BuildPlan: everything decided, nothing done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from builder.arch import Arch, host_arch
from builder.bases import default_python_path
from builder.config import OPTIONAL_SYSTEM_PATHS, Base, Config, parse_base
from builder.dockerfile import DockerfileInputs
from builder.reference import parse_reference
from builder.seccomp import Policy, default_groups, effective_policy
from builder.tree.spec import TREE_PATH, Rule, TreeSpec, parse_rules

DEFAULT_EPOCH = 1735689600
"""2025-01-01T00:00:00Z: the date of every file in an image whose builder sets no SOURCE_DATE_EPOCH."""

NETWORK_GROUP = "network"

_ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108 - of the jail
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
}
"""What every run sees, unless jail.env says otherwise."""


@dataclass(frozen=True)
class BuildPlan:
    """One image of one architecture."""

    arch: Arch
    base: Base
    base_mirror: str | None
    spec: TreeSpec
    policy: Policy
    reference: str
    """NAME:TAG, with the registry where there is one."""
    labels: Mapping[str, str]

    @property
    def foreign(self) -> bool:
        """Whether the image is for another architecture than this machine's."""
        return self.arch != host_arch()

    @property
    def dockerfile(self) -> DockerfileInputs:
        """What the Dockerfile depends on."""
        return DockerfileInputs(
            arch=self.arch,
            python_path=self.spec.python_path,
            image=self.base.name if self.base.kind == "image" else None,
            foreign=self.foreign,
            labels=self.labels,
        )


def make_plan(
    config: Config,
    arch: Arch,
    *,
    tag: str | None = None,
    epoch: int = DEFAULT_EPOCH,
    allow_missing: bool = False,
) -> BuildPlan:
    """What `config` comes to on `arch`. `tag` (NAME:TAG) replaces the config's image name.

    `epoch` is SOURCE_DATE_EPOCH, in seconds. ConfigError for system calls that cannot be allowed; UsageError
    for a `tag` that is no reference.
    """
    base = parse_base(config.base)
    python_path = config.python_path or default_python_path(base)
    groups = (*default_groups(), *([NETWORK_GROUP] if config.enable_network else []), *config.syscalls.groups)
    tree_yaml = resources.files("images").joinpath("python", "tree.yaml").read_text(encoding="utf-8")
    rules = parse_rules(yaml.safe_load(tree_yaml))
    if config.system_lib_requirements is not None:
        reason = "system_lib_requirements"
        rules["system_files"] = tuple(Rule(path, reason) for path in config.system_lib_requirements)
    spec = TreeSpec(
        arch=arch.name,
        base=config.base,
        python_path=python_path,
        python_lib_path=config.python_lib_path,
        optional_paths=OPTIONAL_SYSTEM_PATHS,
        allow_missing=allow_missing,
        **rules,
        epoch=epoch,
        runtime=_runtime(config),
    )
    return BuildPlan(
        arch=arch,
        base=base,
        base_mirror=config.base_mirror,
        spec=spec,
        policy=effective_policy(groups, config.syscalls.allow, config.syscalls.deny),
        reference=str(parse_reference(tag or f"{config.image.repository}:{config.image.tag}")),
        labels=_labels(config),
    )


def digest(plan: BuildPlan, *more: str) -> str:
    """A name for everything that the plan decides: plans that differ in anything have different ones."""
    facts = (plan.arch.name, plan.base_mirror or "", plan.spec.to_json(), repr(plan.policy), plan.reference)
    text = json.dumps([*facts, sorted(plan.labels.items()), *more])
    return hashlib.sha256(text.encode()).hexdigest()


def _runtime(config: Config) -> dict[str, Any]:
    """runtime.json as far as the config decides it."""
    limits = config.limits
    return {
        "tree": TREE_PATH,
        "level": config.jail.level,
        "network": config.enable_network,
        # A run with the network on needs the container's network namespace.
        "namespaces": [name for name in config.jail.namespaces if name != "net" or not config.enable_network],
        "uid_range": list(config.jail.uid_range),
        "limits": {
            "memory_bytes": limits.memory_bytes,
            "cpu_s": limits.cpu_s,
            "file_size_bytes": limits.file_size_bytes,
            "processes": limits.processes,
            "open_files": limits.open_files,
            "output_bytes": limits.output_bytes,
            "scratch_bytes": limits.scratch_bytes,
        },
        "worker_timeout_s": config.worker_timeout,
        "env": _ENVIRONMENT | _proxies(config) | dict(config.jail.env),
        "env_keep": list(config.jail.env_keep),
    }


def _proxies(config: Config) -> dict[str, str]:
    """What dify-sandbox sets for a run with the network on."""
    if not config.enable_network:
        return {}
    proxy = config.proxy
    wanted = {"HTTP_PROXY": proxy.http or proxy.socks5, "HTTPS_PROXY": proxy.https or proxy.socks5}
    return {name: url for name, url in wanted.items() if url}


def _labels(config: Config) -> dict[str, str]:
    """Labels of the OCI annotation set, and the user's, which win."""
    return {
        "org.opencontainers.image.title": config.image.repository.rsplit("/", 1)[-1],
        "org.opencontainers.image.description": "Runs untrusted Python in a chroot under seccomp",
        "org.opencontainers.image.base.name": config.base,
        **config.image.labels,
    }
