"""The build, top to bottom: config, lock, plans, an image for each architecture, push."""

from __future__ import annotations

from functools import partial

from builder import registry
from builder.arch import Arch
from builder.base import Base, open_base
from builder.bases import python_version
from builder.build_image import Built, build_image
from builder.config import Config, parse_base
from builder.drivers import Driver, choose_driver
from builder.errors import (
    LibrariesMissing,
    MissingLibrary,
    UsageError,
)
from builder.options import Options
from builder.output import output_folder
from builder.packages import DIFY_FILE, Lock, Packages, lock_path, open_packages, read_inputs, read_lock
from builder.plan import BuildPlan, make_plan
from builder.progress import Progress
from builder.side_by_side import side_by_side
from builder.supplement import Supplement
from builder.tree.contents import tree_contents
from builder.tree.root import Root


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
        work = {plan.arch.name: partial(_build_arch, config, plan, driver, options, locked) for plan in plans}
        built = side_by_side(work, progress)
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
            base = _open_base(whole, options, progress)
            return build_image(whole, base, packages, driver, options, supplement.line_for, progress)
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
