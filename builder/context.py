"""BuildPlan -> the context directory: everything that `docker build` needs, also without us."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

import yaml

from builder.base import Rootfs
from builder.dockerfile import render_dockerfile
from builder.errors import BuildError
from builder.packages import Packages
from builder.plan import BuildPlan
from builder.tree.bundle import write_bundle


def write_context(
    plan: BuildPlan,
    context: Path,
    target: Rootfs | None,
    own: Rootfs | None,
    packages: Packages | None = None,
) -> None:
    """Makes the folder `context`: the Dockerfile, and beside it what it names.

    `target` is the root filesystem of the plan's architecture, `own` that of this machine's (None both for a
    base that only Docker can have), `packages` the locked packages. BuildError where the
    runtime was not compiled or the disk is full.
    """
    context.mkdir(parents=True)
    (context / "Dockerfile").write_text(render_dockerfile(plan.dockerfile), encoding="utf-8")
    (context / "policy.bpf").write_bytes(plan.policy_bpf)
    (context / "spec.json").write_text(plan.spec.to_json(), encoding="utf-8")
    write_bundle(context / "assembler")
    _write_runtime(plan, context / "runtime")
    if target is not None:
        target.write_tar(context / "target.tar", plan.spec, packages.directory if packages else None)
    if own is not None and plan.foreign:
        own.write_tar(context / "assembler.tar", plan.spec, None)
    if packages is not None:
        # A copy, not a hard link: what lies in an output folder is the user's to change.
        shutil.copyfile(packages.tar, context / "packages.tar")


def _write_runtime(plan: BuildPlan, folder: Path) -> None:
    """The runtime's sources, its native parts for the plan's architecture, and what it hands out as it is."""
    folder.mkdir()
    document = yaml.safe_load(
        (resources.files("images") / "serve" / "openapi.yaml").read_text(encoding="utf-8")
    )
    (folder / "openapi.json").write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
    with resources.as_file(resources.files("runtime")) as sources:
        for source in sorted(sources.glob("*.py")):
            shutil.copyfile(source, folder / source.name)
        for name in ("_syscall.abi3.so", "init"):
            native = sources / "native" / plan.arch.name / name
            if not native.is_file():
                raise BuildError(
                    f"the runtime was not compiled for {plan.arch.name}: {native} is not there",
                    "install sandbox-build again: its native parts are compiled then",
                )
            shutil.copyfile(native, folder / name)
