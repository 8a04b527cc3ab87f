"""Config + architecture -> BuildPlan: everything decided, nothing done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from builder.arch import Arch, host_arch
from builder.bases import default_python_path
from builder.config import OPTIONAL_SYSTEM_PATHS, Base, Config, parse_base
from builder.dockerfile import DockerfileInputs
from builder.reference import parse_reference
from builder.rules import image_layers, tree_rules
from builder.seccomp import Policy, Request, effective_policy
from builder.seccomp.compile import INSTRUCTION, compile_levels
from builder.seccomp.naming import calls
from builder.seccomp.request import read_request, refusal
from builder.seccomp.snapshot import policy_labels
from builder.tree.spec import TREE_PATH, Rule, TreeSpec

DEFAULT_EPOCH = 1735689600
"""2025-01-01T00:00:00Z: the date of every file, and of an image whose builder sets no SOURCE_DATE_EPOCH."""

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
    base_packages: tuple[str, ...]
    """Debian packages that the base has besides the interpreter's."""
    spec: TreeSpec
    policy: Policy
    policy_bpf: bytes
    """The filters of the image, compiled, one behind the other."""
    reference: str
    """NAME:TAG, with the registry where there is one."""
    labels: Mapping[str, str]
    epoch: int = DEFAULT_EPOCH
    """The date of the image: seconds since 1970."""
    compression: str = "gzip"
    """gzip or zstd."""

    def with_packages(self, packages: Iterable[str]) -> BuildPlan:
        """The same on a base that has Debian packages besides: nothing else depends on them."""
        return replace(self, base_packages=tuple(sorted({*self.base_packages, *packages})))

    @property
    def foreign(self) -> bool:
        """Whether the image is for another architecture than this machine's."""
        return self.arch != host_arch()

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the image's layers, the lowest first."""
        return tuple(layer.name for layer in self.spec.layers)

    @property
    def dockerfile(self) -> DockerfileInputs:
        """What the Dockerfile depends on."""
        return DockerfileInputs(
            arch=self.arch,
            python_path=self.spec.python_path,
            image=self.base.name if self.base.kind == "image" else None,
            base=self.spec.base,
            packages=self.spec.python_version is not None,
            layers=self.layers,
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
    python_version: str | None = None,
    requirements: Sequence[str] = (),
) -> BuildPlan:
    """What `config` comes to on `arch`. `tag` (NAME:TAG) replaces the config's image name.

    `epoch` is SOURCE_DATE_EPOCH, in seconds: the image's date, and where it is earlier than ours, that of
    every file too; `python_version` and `requirements` (names) are what the locked
    packages were resolved for. ConfigError for system calls that cannot be allowed; UsageError for a `tag`
    that is no reference.
    """
    base = parse_base(config.base)
    python_path = config.python_path or default_python_path(base)
    rules = tree_rules()
    if config.system_lib_requirements is not None:
        reason = "system_lib_requirements"
        rules["system_files"] = tuple(Rule(path, reason) for path in config.system_lib_requirements)
    policy = effective_policy(policy_request(config), arch)
    # The descriptor that the runtime uses for its last message is the first that the code cannot have.
    programs = compile_levels(policy, arch, channel=config.limits.open_files)
    policy_bpf = b"".join(programs.values())
    reference = str(parse_reference(tag or f"{config.image.repository}:{config.image.tag}"))
    spec = TreeSpec(
        arch=arch.name,
        base=config.base,
        python_path=python_path,
        python_lib_path=config.python_lib_path,
        optional_paths=OPTIONAL_SYSTEM_PATHS,
        allow_missing=allow_missing,
        python_version=python_version,
        requirements=tuple(requirements),
        keep_whole=config.keep_whole,
        optional_libraries=config.optional_libraries,
        promises=config.verify.model_dump(mode="json") | {"warm": list(config.warm)},
        **rules,
        layers=image_layers(),
        # Not the image's own date: then a build of another commit has the same layers but for what changed.
        epoch=min(epoch, DEFAULT_EPOCH),
        calls={"arch": arch.name, "calls": calls(policy, arch)},
        runtime=_runtime(config) | _filters(policy, programs, policy_bpf),
    )
    return BuildPlan(
        arch=arch,
        base=base,
        base_mirror=config.base_mirror,
        base_packages=tuple(sorted(set(config.base_packages))),
        spec=spec,
        policy=policy,
        policy_bpf=policy_bpf,
        reference=reference,
        labels=_labels(config) | policy_labels(policy, arch, policy_bpf),
        epoch=epoch,
        compression=config.image.compression,
    )


def policy_request(config: Config) -> Request:
    """What `config` asks of the policy; ConfigError for conditions and names that it cannot have."""
    request, problems = read_request(
        config.syscalls,
        network=config.enable_network,
        listed=bool(config.network.allow),
        numbers=config.allowed_syscalls,
        numbers_arch=config.allowed_syscalls_arch,
    )
    if problems:  # a call without its conditions would be open in whole
        raise refusal(problems)
    return request


def _filters(policy: Policy, programs: Mapping[str, bytes], policy_bpf: bytes) -> dict[str, Any]:
    """What runtime.json says of policy.bpf: how to cut it up, and how to know that it is whole."""
    return {
        "on_denied": policy.on_denied,
        "policy_instructions": {name: len(one) // INSTRUCTION.size for name, one in programs.items()},
        "policy_sha256": hashlib.sha256(policy_bpf).hexdigest(),
    }


def digest(plan: BuildPlan, *more: str) -> str:
    """A name for everything that the plan decides: plans that differ in anything have different ones."""
    facts = (
        *(plan.arch.name, plan.base_mirror or "", ",".join(plan.base_packages)),
        *(plan.spec.to_json(), repr(plan.policy), plan.reference, plan.epoch, plan.compression),
    )
    text = json.dumps([*facts, sorted(plan.labels.items()), *more])
    return hashlib.sha256(text.encode()).hexdigest()


def _runtime(config: Config) -> dict[str, Any]:
    """runtime.json as far as the config decides it."""
    limits = config.limits
    return {
        "tree": TREE_PATH,
        # Not what --tag says: the same config is the same image by any name.
        "image": f"{config.image.repository}:{config.image.tag}",
        "level": config.jail.level,
        "network": config.enable_network,
        # None: all that the container reaches.
        "network_allow": list(config.network.allow) or None,
        "upstream_proxy": _upstream(config),
        # A run that connects by itself needs the container's network namespace.
        "namespaces": [
            name
            for name in config.jail.namespaces
            if name != "net" or not config.enable_network or config.network.allow
        ],
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
        "serve": _serve(config),
    }


def _serve(config: Config) -> dict[str, Any]:
    """What a server goes by, unless the environment that it is started with says otherwise."""
    app = config.app
    return {
        "port": app.port,
        "debug": app.debug,
        "insecure": app.insecure,
        # Of the key itself an image has nothing that could be read out of it.
        "key_sha256": hashlib.sha256(app.key.encode()).hexdigest() if app.key else "",
        "max_workers": config.max_workers,
        "max_requests": config.max_requests,
        "max_body_bytes": app.max_body_bytes,
        "grace_s": app.grace_s,
        "preload": config.enable_preload,
        "spares": config.max_workers if app.spares is None else app.spares,
        "fresh": config.fresh,
        "warm": list(config.warm),
        "env_allow": list(config.jail.env_allow),
    }


def _upstream(config: Config) -> str | None:
    """The proxy that the way out of a run with network.allow goes on to."""
    url = config.proxy.https or config.proxy.http
    if not config.network.allow or url is None:
        return None
    return url if "://" in url else f"http://{url}"


def _proxies(config: Config) -> dict[str, str]:
    """What dify-sandbox sets for a run with the network on; with network.allow the runtime has its own."""
    if not config.enable_network or config.network.allow:
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
