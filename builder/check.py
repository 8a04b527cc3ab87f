"""What `sandbox-build check` finds out about an image that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.arch import Arch, parse_arch
from builder.errors import BuildError, MissingLibrary, UsageError, VerificationFailed
from builder.image_settings import jail_tree, read_report
from builder.progress import Progress
from builder.proof import Proof, ProofFailed, prove
from builder.remedy import Failure, render
from builder.tree.closure import check_closure
from builder.tree.root import Root
from builder.tree.spec import REPORT_PATH, TREE_PATH

_MOST_FAILURES = 50
_ANEW = "build the image again"


@dataclass(frozen=True)
class Checked:
    """What holds of an image or a config, and what does not."""

    what: str
    """As the user named it."""
    arch: Arch
    missing: tuple[MissingLibrary, ...] = ()
    """Shared libraries that some file needs and that are not there."""
    proof: Proof | None = None
    """None where it failed, or where there is no image to try."""
    failures: tuple[Failure, ...] = ()
    """What failed besides."""

    def lines(self) -> list[str]:
        """What holds, for a person."""
        closure = f"every file of {self.arch.name} finds the shared libraries that it needs"
        return [closure, *(self.proof.lines() if self.proof else ())]

    def failed(self) -> tuple[Failure, ...]:
        """Everything that does not hold."""
        missing = (
            Failure("libraries", str(one), f"build again, with a base that has {one.soname}")
            for one in self.missing
        )
        return (*missing, *self.failures)

    def as_data(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "what": self.what,
            "arch": self.arch.name,
            "missing": [asdict(one) for one in self.missing],
            "proof": self.proof.as_data() if self.proof else None,
            "failures": [asdict(one) for one in self.failures],
        }


def raise_failures(checked: Sequence[Checked]) -> None:
    """VerificationFailed (exit 4) with everything that failed; nothing where all holds."""
    parts = [
        f"{one.what} ({one.arch.name}): {len(failed)} of its promises "
        f"{'does' if len(failed) == 1 else 'do'} not hold:\n{render(failed, _MOST_FAILURES)}"
        for one in checked
        if (failed := one.failed())
    ]
    if parts:
        raise VerificationFailed("\n".join(parts), "mend each as it says there, and build again")


def image_root(folder: Path, what: Path) -> Path:
    """The root of the image that is unpacked at `folder`, or whose jail tree that is.

    UsageError for anything else, by the name `what` that the user knows it by.
    """
    above = folder.resolve()
    for _ in TREE_PATH.strip("/").split("/"):
        above = above.parent
    for root in (folder, above):
        image = Root(root)
        if image.is_file(REPORT_PATH) and image.is_dir(TREE_PATH):
            return root
    raise UsageError(
        f"{what}: not an image that this version has built: it has no {REPORT_PATH[1:]}",
        "build it again; --tree wants the folder that an image.tar was unpacked to",
    )


def check_image(root: Path, what: str, progress: Progress) -> Checked:
    """Looks through the image that is unpacked at `root`, and tries it as far as this machine can."""
    report = read_report(root)
    try:
        return _check(root, report, what, progress)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BuildError(f"{what}: {REPORT_PATH} is not as we write it: {error!r:.200}", _ANEW) from error


def _check(root: Path, report: Any, what: str, progress: Progress) -> Checked:
    arch = parse_arch(report["arch"])
    tree = jail_tree(root)
    missing: tuple[MissingLibrary, ...] = ()
    failures: tuple[Failure, ...] = ()
    proof: Proof | None = None
    with progress.step(f"{what}: looking for the shared libraries of every file"):
        optional = report.get("optional_libraries", ())
        try:
            missing = check_closure(tree, arch, report["python"]["path"], optional)
        except OSError as error:
            failures = (Failure("libraries", f"{error.filename}: {error.strerror}", _ANEW),)
    with progress.step(f"{what}: trying its imports"):
        try:
            proof = prove(root, report, arch, progress)
        except ProofFailed as failed:
            failures += failed.failures
        except VerificationFailed as failed:
            failures += (Failure("the jail", failed.message, failed.hint or _ANEW),)
    return Checked(what, arch, missing, proof, failures)
