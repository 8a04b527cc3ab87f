"""Without a daemon: the assembler runs here."""

from __future__ import annotations

from pathlib import Path

from builder.command import run
from builder.dockerfile import assembler_arguments
from builder.drivers.driver import AssemblerOutput, BuildJob
from builder.errors import BuildError, UsageError
from builder.progress import Progress


class OciDriver:
    """Builds as an ordinary user, with files alone."""

    name = "oci"

    def build(self, job: BuildJob, progress: Progress) -> Path:
        if job.rootfs is None or not job.assembler_command:
            raise UsageError("the oci driver needs a base whose files are here", "--driver docker")
        out = job.scratch / "out"
        output = AssemblerOutput(progress)
        try:
            run(
                [
                    *job.assembler_command,
                    *assembler_arguments(
                        context=str(job.context),
                        root=str(job.rootfs),
                        out=str(out),
                        packages=str(job.packages) if job.packages else None,
                        bytecode=str(job.bytecode) if job.bytecode else None,
                    ),
                ],
                # Nothing of this machine's LD_*, PYTHON* and locale reaches the base's interpreter.
                env={"LC_ALL": "C.UTF-8"},
                on_line=output,
                echo=progress.command,
            )
        except BuildError as error:
            raise output.failure(error) from None
        return out

    def publish(self, archive: Path, progress: Progress) -> None:
        """The archive is all there is."""
