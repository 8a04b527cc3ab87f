"""One image, from its plan to its folder: context, driver, archive, proof, and all of it or nothing."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from builder import verify
from builder.arch import host_arch
from builder.archive import Descriptor, open_archive, write_archive
from builder.attest import DOCUMENTS, BuildFacts, attest
from builder.base import Base, Rootfs, assembler_command
from builder.context import write_context
from builder.dockerfile import bytecode_shelf
from builder.drivers import BuildJob, Driver
from builder.errors import SandboxError
from builder.files_by_hash import sha256_of
from builder.image import make_image
from builder.image_settings import read_report
from builder.layers import join_layers
from builder.options import Options
from builder.output import ARCHIVE, RECORD, REPORT, blaming, put, sweep
from builder.packages import Packages
from builder.plan import BuildPlan, digest
from builder.progress import Progress
from builder.proof import prove
from builder.report import Report
from builder.shelf import Shelf, listing
from builder.tree.origin import report_text
from builder.warm import propose

_CONTEXT = "context"


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


def build_image(
    plan: BuildPlan,
    base: Base,
    packages: Packages | None,
    driver: Driver,
    options: Options,
    facts: BuildFacts,
    line_for: Callable[[str], str | None],
    progress: Progress,
) -> Built:
    """Builds the image of `plan` into `options.output`, unless it is there and nothing has changed.

    `facts` are for the documents about it, less the packages of a base of Debian's; `line_for` says what
    mends the lack of a library that no file's header names. The image appears whole or not at all, and the
    one before stays until then.
    """
    what = f"{plan.reference} for {plan.arch.platform}"
    output = options.output / plan.arch.name
    target = base.rootfs(plan.arch)
    if target is not None and target.cached_age_s:
        progress.note(f"{plan.spec.base} for {plan.arch.name} from {target.cached_age_s / 3600:.1f} h ago")

    # An image that Docker pulls may have moved, and this machine's own files may have changed: no key then.
    key = None
    if target is not None:
        installed = packages.identity if packages else ""
        key = digest(plan, driver.name, _sources(), target.identity, installed, repr(facts))
    built = Built(plan.arch.name, plan.reference, "", output / ARCHIVE, unchanged=False)
    if key and not options.no_cache and (known := _known_digest(output, key)):
        progress.note(f"{what}: nothing changed (--no-cache builds it all the same)")
        return replace(built, digest=known, unchanged=True)

    own = base.build_rootfs()
    sweep(options.output.glob(f".{plan.arch.name}-*"), output)
    with (
        blaming(options.output),
        tempfile.TemporaryDirectory(dir=options.output, prefix=f".{plan.arch.name}-") as temporary,
    ):
        scratch, finished = Path(temporary) / "scratch", Path(temporary) / "finished"
        scratch.mkdir()
        _try_filters(plan, options, what, progress)
        with progress.step(f"{what}: writing the context"):
            write_context(plan, finished / _CONTEXT, target, own, packages)
        with progress.step(f"{what}: building with driver {driver.name}"):
            job = _job(plan, finished / _CONTEXT, scratch, target, own, packages, options)
            out = driver.build(job, progress)
        with progress.step(f"{what}: writing the archive"):
            written = write_archive(
                make_image(plan, out, scratch),
                finished / ARCHIVE,
                plan.reference,
                compression=plan.compression,
                shelf=Shelf(options.cache, "layers", progress),
            )
            built = replace(built, digest=written)
        root = scratch / "root"
        join_layers((out / name for name in plan.layers if (out / name).is_dir()), root)
        report = read_report(root)
        report |= _proven(report, root, plan, what, line_for, progress)
        layers = _named_layers(finished / ARCHIVE)
        report["layers"] = [
            {"name": name, "digest": layer.digest, "bytes": layer.size} for name, layer in layers.items()
        ]
        (finished / REPORT).write_text(report_text(report))
        if (output / ARCHIVE).is_file():
            progress.note(f"{what}: {_sent_again(output / ARCHIVE, layers)}")
        with progress.step(f"{what}: writing what it is made of"):
            whole_facts = replace(facts, debs=target.packages if target else ())
            documents = attest(finished / ARCHIVE, Report(report), whole_facts).documents
        for document in documents:
            (finished / document.name).write_bytes(document.content)
        record = {
            "key": key,
            "digest": built.digest,
            "files": {
                name: sha256_of(finished / name) for name in (REPORT, *(kind.name for kind in DOCUMENTS))
            },
            "context": listing(finished / _CONTEXT),
        }
        (finished / RECORD).write_text(json.dumps(record) + "\n")
        put(finished, output)
    return built


def _try_filters(plan: BuildPlan, options: Options, what: str, progress: Progress) -> None:
    """Evaluates the compiled filters, unless the cache knows that these very ones were right."""

    def fill(_work: Path) -> None:
        with progress.step(f"{what}: trying the policy call by call"):
            verify.filters(plan)

    facts = json.dumps([_sources(), plan.arch.name, repr(plan.policy), plan.policy_bpf.hex()])
    Shelf(options.cache, "filters", progress).open(hashlib.sha256(facts.encode()).hexdigest(), fill)


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
        rootfs=target.directory if target else None,
        packages=packages.directory.absolute() if packages else None,
        bytecode=options.cache.absolute() / "bytecode" / bytecode_shelf(plan.spec.base),
        assembler_command=assembler_command(own.directory, plan.spec, host_arch()) if own else (),
        no_cache=options.no_cache,
    )


def _proven(
    report: Mapping[str, Any],
    root: Path,
    plan: BuildPlan,
    what: str,
    line_for: Callable[[str], str | None],
    progress: Progress,
) -> dict[str, Any]:
    """Tries what the config promises in the finished jail; what was shown, for report.json."""
    with progress.step(f"{what}: trying its imports in the jail"):
        proof = prove(root, report, plan.arch, progress, library=line_for)
    with progress.step(f"{what}: measuring what could be warm"):
        proposal = propose(root, report, proof, progress)
    for line in (*proof.lines(), *(proposal.lines() if proposal else ())):
        progress.note(line)
    return {
        "image": plan.reference,
        "proof": proof.as_data(),
        "proven": proof.lines(),
        "warm": proposal and proposal.as_data(),
    }


def _known_digest(output: Path, key: str) -> str | None:
    """The digest of the image in `output`, where it was made of what `key` stands for and is still whole."""
    try:
        record = json.loads((output / RECORD).read_text())
        if record["key"] != key or record["context"] != listing(output / _CONTEXT):
            return None
        if any(sha256_of(output / name) != sha256 for name, sha256 in record["files"].items()):
            return None
        with open_archive(output / ARCHIVE) as archive:
            for blob in (archive.config, *archive.layers):
                archive.blob(blob).close()
            found = archive.descriptor.digest
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SandboxError):
        return None
    return found if found == record["digest"] else None


def _named_layers(path: Path) -> dict[str, Descriptor]:
    with open_archive(path) as archive:
        return archive.named_layers


def _sent_again(before: Path, layers: Mapping[str, Descriptor]) -> str:
    """What of `layers` a registry lacks that has the image in the archive `before`."""
    try:
        known = {layer.digest for layer in _named_layers(before).values()}
    except SandboxError:  # damaged: as if it were not there
        known = set()
    new = {name: layer for name, layer in layers.items() if layer.digest not in known}
    size = sum(layer.size for layer in new.values())
    kept = sum(layer.size for layer in layers.values()) - size
    if not new:
        return "every layer is as it was"
    return f"{size / 1e6:.2f} MB of layers are new ({', '.join(new)}), {kept / 1e6:.2f} MB as they were"


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
