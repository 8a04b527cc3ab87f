"""The build, top to bottom: config, plan, context, driver, archive, proof, output folder, push."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

from builder import jailrun, registry, verify
from builder.arch import Arch, host_arch
from builder.archive import open_archive, write_archive
from builder.base import Rootfs, assembler_command, open_base
from builder.config import Config
from builder.context import write_context
from builder.drivers import BuildJob, Driver, choose_driver
from builder.errors import BuildError, SandboxError, UsageError, VerificationFailed, room_hint
from builder.plan import BuildPlan, digest, make_plan
from builder.progress import Progress

ARCHIVE = "image.tar"
_RECORD = "build.json"
"""What a build was made of, beside what it made: the next one knows whether anything changed."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for, besides the config."""

    arches: Sequence[Arch]
    driver: str
    """auto, docker or oci."""
    output: Path
    cache: Path
    tag: str | None
    """NAME:TAG in place of the config's."""
    push: bool
    no_cache: bool
    allow_missing: bool
    epoch: int
    """SOURCE_DATE_EPOCH: seconds since 1970."""


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
    plans = [
        make_plan(config, arch, tag=options.tag, epoch=options.epoch, allow_missing=options.allow_missing)
        for arch in options.arches
    ]
    for note in dict.fromkeys(note for plan in plans for note in plan.policy.notes):
        progress.warn(note)
    reference = plans[0].reference
    if options.push:
        registry.open_registry(reference)
    driver = choose_driver(options.driver, plans[0].base.kind, progress)
    with _output_folder(options.output):
        built = [_build_one(plan, driver, options, progress) for plan in plans]
    if not options.push:
        return built, None
    with progress.step(f"pushing {reference}"):
        pushed = registry.push([one.archive for one in built], reference, progress)
    return built, f"{reference}@{pushed}"


def _build_one(plan: BuildPlan, driver: Driver, options: Options, progress: Progress) -> Built:
    what = f"{plan.reference} for {plan.arch.platform}"
    output = options.output / plan.arch.name
    base = open_base(
        plan.base, mirror=plan.base_mirror, cache=options.cache, refresh=options.no_cache, progress=progress
    )
    target = base.rootfs(plan.arch)
    if target is not None and target.cached_age_s:
        progress.note(f"{plan.spec.base} for {plan.arch.name} from {target.cached_age_s / 3600:.1f} h ago")

    # An image that Docker pulls may have moved, and this machine's own files may have changed: no key then.
    key = digest(plan, driver.name, _sources(), target.identity) if target is not None else None
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
            write_context(plan, finished / "context", target, own)
        with progress.step(f"{what}: building with driver {driver.name}"):
            image = driver.build(_job(plan, finished / "context", scratch, target, own, options), progress)
        with progress.step(f"{what}: writing the archive"):
            built = replace(built, digest=write_archive(image, finished / ARCHIVE, plan.reference))
        _prove(plan, finished / ARCHIVE, scratch, progress)
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
    plan: BuildPlan, context: Path, scratch: Path, target: Rootfs | None, own: Rootfs | None, options: Options
) -> BuildJob:
    """What the driver is told."""
    return BuildJob(
        arch=plan.arch,
        context=context.absolute(),
        scratch=scratch.absolute(),
        python_path=plan.spec.python_path,
        labels=plan.labels,
        rootfs=target.directory if target else None,
        assembler_command=assembler_command(own.directory, plan.spec, host_arch()) if own else (),
        epoch=plan.spec.epoch,
        no_cache=options.no_cache,
    )


def _prove(plan: BuildPlan, archive: Path, scratch: Path, progress: Progress) -> None:
    """Runs the finished jail; where this machine cannot, says that it was not tried."""
    if plan.foreign:
        progress.note(f"not tried here: a jail of {plan.arch.name} does not run on this machine")
        return
    with progress.step(f"{plan.reference} for {plan.arch.platform}: trying the jail"):
        root = jailrun.unpack(archive, scratch)
        try:
            version = verify.smoke(root)
        except VerificationFailed:
            raise
        except SandboxError as error:
            progress.warn(f"not tried here: {error.message.splitlines()[-1]}")
            return
    progress.note(f"the jail runs Python {version}")


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


@contextmanager
def _output_folder(output: Path) -> Iterator[None]:
    """Makes the folder where it is not there, and keeps a second build out of it.

    A folder that was made for a build that failed goes again.
    """
    made = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
        if not os.access(output, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        hint = "name a folder that this user can write"
        raise UsageError(f"--output {output}: {error.strerror}", hint) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        hint = "wait for it, or name another folder"
        raise BuildError(f"--output {output}: another build is writing there", hint) from None
    except OSError as error:
        if full := room_hint(error):
            raise BuildError(f"--output {output}: {error.strerror}", full) from None
        raise
    finally:
        os.close(lock)
        if made:
            with suppress(OSError):  # not empty: something was built
                output.rmdir()
