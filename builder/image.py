"""The assembler's output folders -> an OCI image: the same folders, the same bytes, whoever built them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from builder.archive import LAYER_HISTORY, BuiltImage
from builder.dockerfile import entrypoint
from builder.errors import BuildError, room_hint
from builder.files_by_hash import sha256_of
from builder.layers import write_layer
from builder.plan import BuildPlan

# What BuildKit gives an image from scratch: what a Dockerfile's image starts in.
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def make_image(plan: BuildPlan, out: Path, scratch: Path) -> BuiltImage:
    """The image of `plan` whose layers are the folders of `out`; its tar files are written to `scratch`.

    A layer without a file is left out. BuildError where the disk is full.
    """
    layers: list[tuple[str, Path, str]] = []
    try:
        for layer in plan.spec.layers:
            folder = out / layer.name
            if folder.is_dir() and any(folder.iterdir()):
                tar = scratch / f"layer-{layer.name}.tar"
                write_layer(folder, tar, epoch=plan.spec.epoch)
                layers.append((layer.name, tar, f"sha256:{sha256_of(tar)}"))
    except OSError as error:
        message = f"{scratch}: the layers cannot be written: {error.strerror}"
        raise BuildError(message, room_hint(error)) from error
    config = _config(plan, [(name, diff_id) for name, _, diff_id in layers])
    return BuiltImage(config, tuple(tar for _, tar, _ in layers))


def _config(plan: BuildPlan, layers: list[tuple[str, str]]) -> bytes:
    """The OCI image config, for layers as (name, diff ID).

    https://github.com/opencontainers/image-spec/blob/main/config.md
    """
    created = datetime.fromtimestamp(plan.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {
        "Env": [f"PATH={_DEFAULT_PATH}"],
        "Entrypoint": list(entrypoint(plan.spec.python_path)),
        "WorkingDir": "/",
        "Labels": dict(plan.labels),
    }
    reasons = {layer.name: layer.reason for layer in plan.spec.layers}
    return json.dumps(
        {
            "architecture": plan.arch.name,
            "os": "linux",
            "created": created,
            "config": config,
            "history": [
                {"created": created, "created_by": f"{LAYER_HISTORY}{name}", "comment": reasons[name]}
                for name, _ in layers
            ],
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
