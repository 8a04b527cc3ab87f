"""Without a daemon: the assembler runs here, and its output becomes layers as it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from builder.archive import BuiltImage
from builder.command import run
from builder.dockerfile import LAYERS, assembler_arguments, entrypoint
from builder.drivers.driver import AssemblerOutput, BuildJob
from builder.errors import BuildError, UsageError, room_hint
from builder.layers import write_layer
from builder.progress import Progress

# What BuildKit gives an image from scratch: both drivers' images start in the same surroundings.
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class OciDriver:
    """Builds as an ordinary user, with files alone."""

    name = "oci"

    def build(self, job: BuildJob, progress: Progress) -> BuiltImage:
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
        layers = []
        try:
            for name in LAYERS:
                progress.detail(f"layer {name}")
                layers.append(job.scratch / f"layer-{name}.tar")
                write_layer(out / name, layers[-1], epoch=job.epoch)
            return BuiltImage(_image_config(job, layers), tuple(layers))
        except OSError as error:
            message = f"{job.scratch}: the layers cannot be written: {error.strerror}"
            raise BuildError(message, room_hint(error)) from error

    def publish(self, archive: Path) -> None:
        """The archive is all there is."""


def _image_config(job: BuildJob, layers: Sequence[Path]) -> bytes:
    """The OCI image config that BuildKit makes of the Dockerfile, less its dates and history."""
    diff_ids = []
    for layer in layers:
        with layer.open("rb") as file:
            diff_ids.append(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
    config: dict[str, object] = {
        "Env": [f"PATH={_DEFAULT_PATH}"],
        "Entrypoint": list(entrypoint(job.python_path)),
        "WorkingDir": "/",
    }
    if job.labels:
        config["Labels"] = dict(job.labels)
    return json.dumps(
        {
            "architecture": job.arch.name,
            "os": "linux",
            "created": datetime.fromtimestamp(job.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
