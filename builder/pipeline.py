"""The build, top to bottom: config -> plan -> context -> driver -> archive -> proof -> dist/."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from builder import jailrun, registry, verify
from builder.archive import open_archive, write_archive
from builder.arch import Arch
from builder.base import Rootfs, open_base
from builder.config import Config
from builder.dockerfile import render_dockerfile
from builder.drivers import BuildJob, Driver, choose_driver
from builder.errors import BuildError, SandboxError, ToolMissing, VerificationFailed
from builder.plan import BuildPlan, digest, make_plan
from builder.progress import Progress
from builder.seccomp import compile_policy
from builder.tree.bundle import write_bundle
from builder.tree.spec import TreeSpec

ARCHIVE = "image.tar"
_RECORD = "build.json"


@dataclass(frozen=True)
class Options:
    """What the command line asks for, besides the config."""

    arches: Sequence[Arch]
    driver: str
    output: Path
    cache: Path
    tag: str | None
    push: bool
    no_cache: bool
    allow_missing: bool
    epoch: int


@dataclass(frozen=True)
class Built:
    """One finished image."""

    arch: str
    reference: str
    digest: str
    archive: Path
    unchanged: bool
    """Nothing had changed since the last build into the same folder, so nothing was done."""
    pushed: bool

    @property
    def name(self) -> str:
        """NAME:TAG@sha256:..., which says exactly which image this is."""
        return f"{self.reference}@{self.digest}"


def build(config: Config, options: Options, progress: Progress) -> list[Built]:
    """Builds an image for each architecture, in order, and pushes when all of them are there.

    Each image appears in `options.output` whole, or not at all, whatever happens meanwhile.
    """
    plans = [
        make_plan(config, arch, tag=options.tag, epoch=options.epoch, allow_missing=options.allow_missing)
        for arch in options.arches
    ]
    driver = choose_driver(options.driver, plans[0].base.kind, progress)
    with _output_folder(options.output):
        built = [_build_one(plan, driver, options, progress) for plan in plans]
    if options.push:
        built = [_push(one, options, progress) for one in built]
    return built


def _build_one(plan: BuildPlan, driver: Driver, options: Options, progress: Progress) -> Built:
    target = options.output / plan.arch.name
    name = f"{plan.reference} for {plan.arch.platform}"
    for warning in plan.warnings:
        progress.warn(warning)
    base = open_base(
        plan.base, mirror=plan.base_mirror, cache=options.cache, refresh=options.no_cache, progress=progress
    )
    with tempfile.TemporaryDirectory(dir=options.output, prefix=f".{plan.arch.name}-") as temporary:
        scratch = Path(temporary)
        rootfs = base.rootfs(plan.arch)
        key = digest(plan, driver.name, rootfs.identity if rootfs else "", _own_digest())
        if not options.no_cache and (known := _read_record(target, key)):
            progress.note(f"{name}: nothing changed since the last build (--no-cache builds it anyway)")
            return Built(plan.arch.name, plan.reference, known, target / ARCHIVE, unchanged=True, pushed=False)

        finished = scratch / "finished"
        context = finished / "context"
        with progress.step(f"{name}: writing the context"):
            write_context(plan, context, rootfs, base.build_rootfs())
        with progress.step(f"{name}: building with {driver.name}"):
            job = BuildJob(...)
            image = driver.build(job, progress)
        with progress.step(f"{name}: writing the archive"):
            found = write_archive(image, finished / ARCHIVE, plan.reference)
        _prove(plan, finished / ARCHIVE, scratch, progress)
        (finished / _RECORD).write_text(json.dumps({"key": key, "digest": found}) + "\n")
        _replace(target, finished, scratch)
    return Built(plan.arch.name, plan.reference, found, target / ARCHIVE, unchanged=False, pushed=False)
