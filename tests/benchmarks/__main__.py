"""`make bench`: the figures of README and docs/figures.md, as a table on stdout and as bench.json.

Speeds of a run are ratios to a bare `python3 -I -S -c pass` of the image's own interpreter, taken in turn
with it in the same loop, and so is every other ratio to what it is over. Needs root (it changes its root
directory to the image's).

    python -m tests.benchmarks [PART...]    images, starts, allowed, denied, traces, packages, service, warm
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from builder import jailrun
from builder.arch import ARCHES
from builder.archive import open_archive
from tests.benchmarks.denials import allowed_calls, denied_calls
from tests.benchmarks.packages import packages
from tests.benchmarks.serving import library_figures, serving_figures
from tests.benchmarks.starts import starts
from tests.benchmarks.tracing import traces
from tests.integration.servers import running_registry
from tests.suite.shelf import QUICK, WARM, built_root

REPOSITORY = Path(__file__).parents[2]
BOTH = tuple(ARCHES)
FETCHED = ("debs", "debian-packages", "wheels")
"""What of the cache comes from elsewhere; all else is made of it."""


def main(names: Sequence[str]) -> None:
    """Measures the parts `names`, or everything, and prints it."""
    if os.geteuid() != 0:
        sys.exit("error: the benchmark runs as root: it uses chroot")
    if unknown := {*names} - {*PARTS}:
        sys.exit(f"error: no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    figures: dict[str, float] = {}
    for name in names or PARTS:
        with tempfile.TemporaryDirectory(prefix="sandbox-bench-") as temporary:
            figures |= PARTS[name](Path(temporary))
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {value}")
    if not names:
        (REPOSITORY / "bench.json").write_text(json.dumps(figures, indent=1) + "\n")


def images(scratch: Path) -> dict[str, float]:
    """What it takes to make them, and what they take."""
    return {**builds(scratch), **sizes(scratch)}


def builds(scratch: Path) -> dict[str, float]:
    """Seconds of builds without Docker, of both architectures at once, and what a small change pushes."""
    figures = {}
    cache = scratch / "cache" / "sandbox-build"
    (scratch / "config.yaml").write_text((REPOSITORY / "config.yaml").read_text())
    figures["build of both, from nothing, packages fetched, s"], _ = _build(scratch, "first", BOTH)
    for derived in set(os.listdir(cache)) - set(FETCHED):  # noqa: PTH208 - names
        shutil.rmtree(cache / derived)
    figures["build of both, from Debian's packages in the cache, s"], _ = _build(scratch, "second", BOTH)
    figures["build of both, nothing changed, s"], _ = _build(scratch, "second", BOTH)
    (scratch / "config.yaml").write_text("image: {compression: zstd}\n")
    _build(scratch, "zstd", BOTH)
    with running_registry(scratch) as host:
        for name, arches in (("amd64", BOTH[:1]), ("both", BOTH)):
            push = ("--push", f"{host}/bench-{name}:v1")
            for certificate in ("ISRG_Root_X1.crt", "ISRG_Root_X2.crt"):
                line = f"python_lib_path: [/usr/share/ca-certificates/mozilla/{certificate}]\n"
                (scratch / "config.yaml").write_text(line)
                took_s, said = _build(scratch, f"line-{name}", arches, *push)
            sent = re.search(r"([0-9.]+) MB sent", said)
            assert sent is not None
            figures[f"build and push of {name}, one listed path changed, s"] = took_s
            figures[f"the same of {name}, sent, kB"] = 1000 * float(sent[1])
    return figures


def _build(scratch: Path, output: str, arches: Sequence[str], *more: str) -> tuple[float, str]:
    """Seconds of one build, and what it said."""
    options = [word for arch in arches for word in ("--arch", arch)]
    options += ["--config", str(scratch / "config.yaml"), "--output", str(scratch / output), *more]
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "builder", "--driver", "oci", *options],
        cwd=REPOSITORY,
        env=os.environ | {"XDG_CACHE_HOME": str(scratch / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return round(time.monotonic() - started, 1), done.stderr


def sizes(scratch: Path) -> dict[str, float]:
    """Megabytes (10^6 bytes) of the default image: what is pulled, and what it takes unpacked."""
    figures = {}
    for arch in ARCHES:
        for output, compression in (("zstd", "zstd"), ("second", "gzip")):
            image = scratch / output / arch / "image.tar"
            with open_archive(image) as archive:
                packed = sum(layer.size for layer in archive.layers)
            figures[f"image of {arch}, layers compressed by {compression}, MB"] = round(packed / 1e6, 2)
        root = jailrun.unpack(image, scratch / "unpacked")
        # Blocks, not lengths: what a disk really gives up. A link counted once.
        seen = {(at.st_dev, at.st_ino): at.st_blocks * 512 for at in map(os.lstat, root.rglob("*"))}
        figures[f"image of {arch}, on disk, MB"] = round(sum(seen.values()) / 1e6, 2)
    return figures


PARTS: dict[str, Callable[[Path], dict[str, float]]] = {
    "images": images,
    "starts": lambda _: starts(built_root()),
    "allowed": lambda _: allowed_calls(built_root()),
    "denied": lambda _: denied_calls(built_root()),
    "traces": lambda scratch: traces(built_root(QUICK), scratch / "root"),
    "packages": lambda _: packages(),
    "service": lambda _: serving_figures(built_root()),
    "warm": lambda _: library_figures(built_root(WARM)),
}
"""What is measured; each gets a folder for itself."""


if __name__ == "__main__":
    main(sys.argv[1:])
