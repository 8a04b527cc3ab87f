"""The OCI image of a plan's layers: what its config says."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from builder.arch import ARCHES
from builder.config import Config
from builder.image import make_image
from builder.plan import DEFAULT_EPOCH, BuildPlan, make_plan


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two layers with something in them, and one without."""
    for name in ("system/usr/lib", "config/sandbox", "runtime"):
        (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out/system/usr/lib/libc.so.6").write_text("c")
    (tmp_path / "out/config/sandbox/policy.bpf").write_text("p")
    return tmp_path / "out"


def plan(epoch: int = DEFAULT_EPOCH) -> BuildPlan:
    return make_plan(Config(), ARCHES["arm64"], epoch=epoch)


def test_config(out: Path, tmp_path: Path) -> None:
    """Of the plan's architecture and date; each layer that holds something, with its name and its reason."""
    image = make_image(plan(1_800_000_000), out, tmp_path)
    config = json.loads(image.config)
    assert (config["os"], config["architecture"]) == ("linux", "arm64")
    assert config["created"] == "2027-01-15T08:00:00Z"
    assert config["config"]["Entrypoint"][:2] == ["/sandbox/init", "/usr/bin/python3.13"]
    assert (
        config["config"]["Labels"].items() >= {"org.opencontainers.image.base.name": "debian:trixie"}.items()
    )
    assert [one["created_by"] for one in config["history"]] == [
        "sandbox-build: layer system",
        "sandbox-build: layer config",
    ]
    assert all(one["comment"] for one in config["history"])
    hashes = [f"sha256:{hashlib.sha256(layer.read_bytes()).hexdigest()}" for layer in image.layers]
    assert config["rootfs"] == {"type": "layers", "diff_ids": hashes}


@pytest.mark.parametrize(
    ("epoch", "dated"), [(1_800_000_000, DEFAULT_EPOCH), (DEFAULT_EPOCH, DEFAULT_EPOCH), (1000, 1000)]
)
def test_files_are_not_newer_than_the_image(out: Path, tmp_path: Path, epoch: int, dated: int) -> None:
    """A later SOURCE_DATE_EPOCH dates the image alone, so that layers stay; an earlier one the files too."""
    image = make_image(plan(epoch), out, tmp_path)
    times = set()
    for layer in image.layers:
        with tarfile.open(layer) as tar:
            times |= {entry.mtime for entry in tar}
    assert times == {dated}


def test_the_same_folders_give_the_same_image(out: Path, tmp_path: Path) -> None:
    """Whatever the scratch folder is called."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (make_image(plan(), out, tmp_path / name) for name in "ab")
    assert first.config == second.config
    assert [a.read_bytes() for a in first.layers] == [b.read_bytes() for b in second.layers]
