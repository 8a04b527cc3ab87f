"""The build, top to bottom: config, plan, context, driver, archive, proof, output folder, push."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from builder import jailrun, registry, verify
from builder.arch import Arch, host_arch
from builder.archive import open_archive, write_archive
from builder.base import Base, Rootfs, assembler_command, open_base
from builder.bases import python_version
from builder.config import Config, parse_base
from builder.context import write_context
from builder.dockerfile import bytecode_shelf
from builder.drivers import BuildJob, Driver, choose_driver
from builder.errors import (
    LibrariesMissing,
    MissingLibrary,
    SandboxError,
    UsageError,
)
from builder.image_settings import read_report
from builder.output import output_folder
from builder.packages import DIFY_FILE, Lock, Packages, lock_path, open_packages, read_inputs, read_lock
from builder.plan import DEFAULT_EPOCH, BuildPlan, digest, make_plan
from builder.progress import Progress
from builder.proof import prove
from builder.supplement import Supplement
from builder.tree.contents import tree_contents
from builder.tree.origin import report_text
from builder.tree.root import Root
from builder.warm import propose

ARCHIVE = "image.tar"
REPORT = "report.json"
"""The image's own report, and what was proven of it."""
_RECORD = "build.json"
"""What a build was made of, beside what it made: the next one knows whether anything changed."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for, besides the config."""

    config_path: Path
    """Beside it lies the lock file."""
    arches: Sequence[Arch]
    output: Path
    cache: Path
    driver: str = "auto"
    """auto, docker or oci."""
    tag: str | None = None
    """NAME:TAG in place of the config's."""
    push: bool = False
    no_cache: bool = False
    allow_missing: bool = False
    epoch: int = DEFAULT_EPOCH
    """SOURCE_DATE_EPOCH: seconds since 1970."""
    wheelhouse: Path | None = None
    """A folder of wheels, looked into before the index."""
    index: bool = True
    """Whether Python packages may come from an index."""


@dataclass(frozen=True)
class Built:
    """One finished image."""

    arch: str
    reference: str
    """NAME:TAG."""
    digest: str
    """Of the manifest: sha256:HEX."""
    archive: Path
    unchanged: bool
    """Nothing had changed since the last build into the same folder, so nothing was done."""

    @property
    def name(self) -> str:
        """NAME:TAG@sha256:HEX, which says exactly which image this is."""
        return f"{self.reference}@{self.digest}"


def build(config: Config, options: Options, progress: Progress) -> tuple[list[Built], str | None]:
    """Builds an image for each architecture, and pushes when all of them are there.

    Returns the images, and the name of what was pushed: the image, or the index over several. Each image
    appears in `options.output` whole or not at all, whatever happens meanwhile.
    """
    locked = read_locked(config, options, progress)
    plans = [plan_of(config, arch, options, locked) for arch in options.arches]
    for note in dict.fromkeys(note for plan in plans for note in plan.policy.notes):
        progress.warn(note)
    reference = plans[0].reference
    if options.push:
        registry.open_registry(reference)
    driver = choose_driver(options.driver, plans[0].base.kind, progress)
    with output_folder(options.output):
        built = [_build_arch(config, plan, driver, options, locked, progress) for plan in plans]
    if not options.push:
        return built, None
    with progress.step(f"pushing {reference}"):
        pushed = registry.push([one.archive for one in built], reference, progress)
    return built, f"{reference}@{pushed}"


def read_locked(config: Config, options: Options, progress: Progress) -> Lock | None:
    """The lock file beside the config; None for a config without dependencies.

    ConfigError where it is not there, or is not of this config.
    """
    from_dify = config.dependencies is None and (options.config_path.parent / DIFY_FILE).is_file()
    if not config.dependencies and not from_dify:
        return None  # before the version of Python is asked for, which not every base's name says
    version = python_version(parse_base(config.base), config.python_path, config.python_version)
    inputs = read_inputs(config, options.config_path, options.arches, version)
    if inputs is None:
        return None
    if inputs.found_file is not None:
        progress.note(f"dependencies from {inputs.found_file}")
    return read_lock(lock_path(options.config_path), inputs)


def plan_of(config: Config, arch: Arch, options: Options, locked: Lock | None) -> BuildPlan:
    """The plan for one architecture."""
    return make_plan(
        config,
        arch,
        tag=options.tag,
        epoch=options.epoch,
        allow_missing=options.allow_missing,
        python_version=locked.python_version if locked else None,
        requirements=locked.requested if locked else (),
    )


def closure_of(
    config: Config, arch: Arch, options: Options, progress: Progress
) -> tuple[MissingLibrary, ...]:
    """What a build for `arch` would miss in its base, after what it would take from Debian. Nothing is built.

    UsageError for a base of kind image: only its own build sees its files.
    """
    locked = read_locked(config, options, progress)
    packages = _packages(locked, arch, options, progress)
    supplement = _supplement(config, arch, packages, options, progress)
    plan = plan_of(config, arch, options, locked)
    while True:
        target = _open_base(plan.with_packages(supplement.packages), options, progress).rootfs(arch)
        if target is None:
            raise UsageError(
                f"the files of {plan.spec.base} are in Docker: only a build can look through them",
                "`sandbox-build`, which fails where a library is missing; then `sandbox-build check`",
            )
        what = f"{plan.spec.base} for {arch.name}: looking for the shared libraries of every file"
        try:
            with progress.step(what):
                root = Root(target.directory, packages.directory if packages else None)
                tree_contents(plan.spec, root, progress.detail)
                return ()
        except LibrariesMissing as error:
            try:
                supplement.add(error)
            except LibrariesMissing as final:
                return final.missing


def _build_arch(
    config: Config, plan: BuildPlan, driver: Driver, options: Options, locked: Lock | None, progress: Progress
) -> Built:
    """Builds one image; where the base lacks libraries that Debian has, again with these."""
    packages = _packages(locked, plan.arch, options, progress)
    supplement = _supplement(config, plan.arch, packages, options, progress)
    while True:
        whole = plan.with_packages(supplement.packages)
        try:
            return _build_one(whole, packages, driver, options, supplement.line_for, progress)
        except LibrariesMissing as error:
            supplement.add(error)


def _packages(locked: Lock | None, arch: Arch, options: Options, progress: Progress) -> Packages | None:
    """The locked packages, installed in the cache."""
    if locked is None:
        return None
    return open_packages(
        *(locked, arch),
        cache=options.cache,
        progress=progress,
        wheelhouse=options.wheelhouse,
        index=options.index,
    )


def _supplement(
    config: Config, arch: Arch, packages: Packages | None, options: Options, progress: Progress
) -> Supplement:
    identity = packages.identity if packages else ""
    return Supplement(config, arch, identity, options.cache, progress, refresh=options.no_cache)


def _open_base(plan: BuildPlan, options: Options, progress: Progress) -> Base:
    return open_base(
        plan.base,
        packages=plan.base_packages,
        mirror=plan.base_mirror,
        cache=options.cache,
        refresh=options.no_cache,
        progress=progress,
    )


def _build_one(
    plan: BuildPlan,
    packages: Packages | None,
    driver: Driver,
    options: Options,
    line_for: Callable[[str], str | None],
    progress: Progress,
) -> Built:
    what = f"{plan.reference} for {plan.arch.platform}"
    output = options.output / plan.arch.name
    base = _open_base(plan, options, progress)
    target = base.rootfs(plan.arch)
    if target is not None and target.cached_age_s:
        progress.note(f"{plan.spec.base} for {plan.arch.name} from {target.cached_age_s / 3600:.1f} h ago")

    # An image that Docker pulls may have moved, and this machine's own files may have changed: no key then.
    key = None
    if target is not None:
        key = digest(plan, driver.name, _sources(), target.identity, packages.identity if packages else "")
    built = Built(plan.arch.name, plan.reference, "", output / ARCHIVE, unchanged=False)
    if key and not options.no_cache and (known := _known_digest(output, key)):
        progress.note(f"{what}: nothing changed (--no-cache builds it all the same)")
        driver.publish(built.archive)
        return replace(built, digest=known, unchanged=True)

    own = base.build_rootfs()
    for leftover in options.output.glob(f".{plan.arch.name}-*"):  # of a build that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=options.output, prefix=f".{plan.arch.name}-") as temporary:
        scratch, finished = Path(temporary) / "scratch", Path(temporary) / "finished"
        scratch.mkdir()
        with progress.step(f"{what}: trying the policy call by call"):
            verify.filters(plan)
        with progress.step(f"{what}: writing the context"):
            write_context(plan, finished / "context", target, own, packages)
        with progress.step(f"{what}: building with driver {driver.name}"):
            image = driver.build(
                _job(plan, finished / "context", scratch, target, own, packages, options), progress
            )
        with progress.step(f"{what}: writing the archive"):
            built = replace(built, digest=write_archive(image, finished / ARCHIVE, plan.reference))
        _prove(plan, finished, scratch, line_for, progress)
        (finished / _RECORD).write_text(json.dumps({"key": key, "digest": built.digest}) + "\n")
        replaced = Path(temporary) / "replaced"
        if output.exists():
            output.rename(replaced)
        try:
            finished.rename(output)
        except BaseException:  # Ctrl-C too: the earlier image must not go with the temporary folder
            if replaced.exists() and not output.exists():
                replaced.rename(output)
            raise
    driver.publish(built.archive)
    return built


def _job(
    plan: BuildPlan,
    context: Path,
    scratch: Path,
    target: Rootfs | None,
    own: Rootfs | None,
    packages: Packages | None,
    options: Options,
) -> BuildJob:
    """What the driver is told."""
    return BuildJob(
        arch=plan.arch,
        context=context.absolute(),
        scratch=scratch.absolute(),
        python_path=plan.spec.python_path,
        labels=plan.labels,
        rootfs=target.directory if target else None,
        packages=packages.directory.absolute() if packages else None,
        bytecode=options.cache.absolute() / "bytecode" / bytecode_shelf(plan.spec.base),
        assembler_command=assembler_command(own.directory, plan.spec, host_arch()) if own else (),
        epoch=plan.spec.epoch,
        no_cache=options.no_cache,
    )


def _prove(
    plan: BuildPlan,
    finished: Path,
    scratch: Path,
    line_for: Callable[[str], str | None],
    progress: Progress,
) -> None:
    """Tries what the config promises in the finished jail, and writes beside it what was shown."""
    with progress.step(f"{plan.reference} for {plan.arch.platform}: unpacking the image"):
        root = jailrun.unpack(finished / ARCHIVE, scratch)
        report = read_report(root)
    with progress.step(f"{plan.reference} for {plan.arch.platform}: trying its imports in the jail"):
        proof = prove(root, report, plan.arch, progress, library=line_for)
    with progress.step(f"{plan.reference} for {plan.arch.platform}: measuring what could be warm"):
        proposal = propose(root, report, proof, progress)
    for line in (*proof.lines(), *(proposal.lines() if proposal else ())):
        progress.note(line)
    shown: dict[str, Any] = {"image": plan.reference, "proof": proof.as_data(), "proven": proof.lines()}
    shown["warm"] = proposal and proposal.as_data()
    (finished / REPORT).write_text(report_text(report | shown))


def _known_digest(output: Path, key: str) -> str | None:
    """The digest of the image in `output`, where it was made of what `key` stands for and is still whole."""
    try:
        record = json.loads((output / _RECORD).read_text())
        if record["key"] != key:
            return None
        with open_archive(output / ARCHIVE) as archive:
            for blob in (archive.config, *archive.layers):
                archive.blob(blob).close()
            found = archive.descriptor.digest
    except (OSError, ValueError, KeyError, SandboxError):
        return None
    return found if found == record["digest"] else None


@cache
def _sources() -> str:
    """A name for the builder, the runtime and the data that this process runs with."""
    found = hashlib.sha256()
    for package in ("builder", "images", "runtime"):
        with resources.as_file(resources.files(package)) as folder:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.suffix != ".pyc":
                    found.update(f"{package}/{path.relative_to(folder)}\0".encode())
                    found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()
