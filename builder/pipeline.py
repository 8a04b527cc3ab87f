"""The build, top to bottom: config, lock, plans, an image for each architecture, push."""

from __future__ import annotations

import hashlib
from functools import partial

from builder import __version__, registry
from builder.arch import Arch, host_arch
from builder.attest import ATTACHED, BuildFacts, Wheel, image_parameters
from builder.base import Base, Rootfs, open_base
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
from builder.output import check_place, output_folder
from builder.packages import (
    DIFY_FILE,
    Lock,
    Packages,
    lock_path,
    open_packages,
    parse_file,
    read_inputs,
    read_lock,
)
from builder.plan import BuildPlan, make_plan
from builder.progress import Progress
from builder.reference import parse_reference
from builder.registry_cache import shared_files
from builder.side_by_side import side_by_side
from builder.sign import find_signer, sign
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
        if options.registry_cache and parse_reference(options.registry_cache) == parse_reference(reference):
            raise UsageError(
                f"--push and --registry-cache both name {reference}",
                "what is pushed would take the cache's place: name another tag for it",
            )
        target, repository = registry.open_registry(reference)
        if options.if_absent and (there := repository.find_digest(target.tag)) is not None:
            progress.note(f"{reference} is there already: this build has to come to {there}")
        if config.image.sign:
            find_signer(config.image.sign)
    driver = choose_driver(options.driver, plans[0].base.kind, progress)
    work = {plan.arch.name: partial(_build_arch, config, plan, driver, options, locked) for plan in plans}
    with output_folder(options.output):
        for arch in options.arches:
            check_place(options.output / arch.name)
        with shared_files(locked, options, progress):
            built = side_by_side(work, progress)
        # One name for all: the last one has it, and that is what runs here.
        for one in sorted(built, key=lambda one: one.arch == host_arch().name):
            driver.publish(one.archive, progress)
        return built, _push(config, built, reference, options, progress) if options.push else None


def _push(config: Config, built: list[Built], reference: str, options: Options, progress: Progress) -> str:
    """Pushes the images, and has them signed; the name of what was pushed, with its digest."""
    images = [registry.Image(one.archive, _attachments(one)) for one in built]
    pushed = registry.push(images, reference, progress, if_absent=options.if_absent)
    progress.note(
        f"{pushed.sent_bytes / 1e6:.2f} MB sent, {pushed.skipped_bytes / 1e6:.2f} MB were there already"
    )
    name = f"{reference}@{pushed.digest}"
    if config.image.sign:
        sign(config.image.sign, name, progress)
    return name


def _attachments(built: Built) -> list[registry.Attachment]:
    """The documents about an image, as its registry gets them."""
    folder = built.archive.parent
    return [
        registry.Attachment(kind.artifact_type, kind.media_type, (folder / kind.name).read_bytes(), kind.name)
        for kind in ATTACHED
    ]


def read_locked(config: Config, options: Options, progress: Progress) -> Lock | None:
    """The lock file beside the config; None for a config without dependencies whose base is not locked.

    ConfigError where it is not there, or is not of this config.
    """
    path = lock_path(options.config_path)
    from_dify = config.dependencies is None and (options.config_path.parent / DIFY_FILE).is_file()
    base = parse_base(config.base)
    only_base = not config.dependencies and not from_dify
    if only_base and not (base.kind == "debian" and path.is_file() and parse_file(path).debian):
        return None  # before the version of Python is asked for, which not every base's name says
    version = python_version(base, config.python_path, config.python_version)
    inputs = read_inputs(config, options.config_path, options.arches, version, with_base=only_base)
    if inputs is None:
        return None
    if inputs.found_file is not None:
        progress.note(f"dependencies from {inputs.found_file}")
    locked = read_lock(path, inputs)
    if base.kind == "debian" and not locked.debian:
        progress.note(f"{path} has no Debian packages: today's are taken (`sandbox-build lock` locks them)")
    return locked


def plan_of(config: Config, arch: Arch, options: Options, locked: Lock | None) -> BuildPlan:
    """The plan for one architecture."""
    return make_plan(
        config,
        arch,
        tag=options.tag,
        epoch=options.epoch,
        allow_missing=options.allow_missing,
        python_version=locked.python_version if locked and locked.requested else None,
        requirements=locked.requested if locked else (),
    )


def closure_of(
    config: Config, arch: Arch, options: Options, progress: Progress
) -> tuple[MissingLibrary, ...]:
    """What a build for `arch` would miss in its base, after what it would take from Debian. Nothing is built.

    UsageError for a base of kind image: only its own build sees its files.
    """
    return complete_base(config, arch, options, read_locked(config, options, progress), progress)[1]


def complete_base(
    config: Config, arch: Arch, options: Options, locked: Lock | None, progress: Progress
) -> tuple[Rootfs, tuple[MissingLibrary, ...]]:
    """The base that a build for `arch` ends up with, and the libraries that it would miss all the same.

    UsageError for a base of kind image.
    """
    packages = _packages(locked, arch, options, progress)
    supplement = _supplement(config, arch, packages, locked, options, progress)
    plan = plan_of(config, arch, options, locked)
    while True:
        whole = plan.with_packages(supplement.packages)
        target = _open_base(config, whole, locked, options, progress).rootfs(arch)
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
                return target, ()
        except LibrariesMissing as error:
            try:
                supplement.add(error)
            except LibrariesMissing as final:
                return target, final.missing


def _build_arch(
    config: Config, plan: BuildPlan, driver: Driver, options: Options, locked: Lock | None, progress: Progress
) -> Built:
    """Builds one image; where the base lacks libraries that Debian has, again with these."""
    packages = _packages(locked, plan.arch, options, progress)
    supplement = _supplement(config, plan.arch, packages, locked, options, progress)
    while True:
        whole = plan.with_packages(supplement.packages)
        try:
            base = _open_base(config, whole, locked, options, progress)
            facts = _facts(config, plan, options, locked)
            return build_image(whole, base, packages, driver, options, facts, supplement.line_for, progress)
        except LibrariesMissing as error:
            supplement.add(error)


def _facts(config: Config, plan: BuildPlan, options: Options, locked: Lock | None) -> BuildFacts:
    """What the documents about an image say of its making."""
    wheels = []
    for pin in locked.pins[plan.arch.name] if locked else ():
        source = locked.sources.get(pin.name) if locked else None
        sha256 = next(one for one in pin.hashes if source is None or one != source.sdist)
        wheels.append(Wheel(pin.name, pin.version, sha256))
    path = lock_path(options.config_path)
    return BuildFacts(
        config=image_parameters(config),
        epoch=options.epoch,
        builder_version=__version__,
        wheels=tuple(wheels),
        lock_sha256=hashlib.sha256(path.read_bytes()).hexdigest() if locked else None,
    )


def _packages(locked: Lock | None, arch: Arch, options: Options, progress: Progress) -> Packages | None:
    """The locked Python packages, installed in the cache."""
    if locked is None or not locked.requested:
        return None
    return open_packages(
        *(locked, arch),
        cache=options.cache,
        progress=progress,
        wheelhouse=options.wheelhouse,
        index=options.index,
    )


def _supplement(
    config: Config,
    arch: Arch,
    packages: Packages | None,
    locked: Lock | None,
    options: Options,
    progress: Progress,
) -> Supplement:
    identity = packages.identity if packages else ""
    is_locked = locked is not None and arch.name in locked.debian
    return Supplement(
        config, arch, identity, options.cache, progress, refresh=options.no_cache, locked=is_locked
    )


def _open_base(
    config: Config, plan: BuildPlan, locked: Lock | None, options: Options, progress: Progress
) -> Base:
    return open_base(
        plan.base,
        packages=plan.base_packages,
        mirror=plan.base_mirror,
        cache=options.cache,
        refresh=options.no_cache,
        progress=progress,
        pinned=locked.debian if locked else None,
        snapshot=config.base_snapshot,
    )
