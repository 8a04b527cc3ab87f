"""What packages cost: the image of everything.yaml, its closure, its build, its proof, its lock."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import jailrun, pipeline
from builder.arch import ARCHES, Arch, host_arch
from builder.base import assembler_command, open_base
from builder.cli_options import cache
from builder.config import load_config
from builder.context import write_context
from builder.dockerfile import assembler_arguments
from builder.errors import LibrariesMissing
from builder.options import Options
from builder.packages import Packages, open_packages
from builder.plan import BuildPlan
from builder.progress import Progress
from builder.proof import prove
from builder.supplement import Supplement
from builder.tree.contents import tree_contents
from builder.tree.root import Root
from builder.tree.spec import REPORT_PATH, TREE_PATH
from tests.suite.shelf import EVERYTHING, build, scratch

ROUNDS = 3
QUIET = Progress(quiet=True)
KEPT = ("debian", "wheels", "built", "libraries")
"""What is at hand when wheels are: neither what was installed of them nor bytecode."""


def packages() -> dict[str, float]:
    """Everything at work with thirty libraries, from wheels that are in the cache."""
    figures: dict[str, float] = {}
    for arch in ARCHES.values():
        with scratch() as folder:
            figures |= assembly(arch, folder)
    with scratch() as folder:
        figures |= builds(folder)
        figures |= proofs(folder / "dist", folder)
    with scratch() as folder:
        figures |= locks(folder)
    return figures


# Closure and assembly


def assembly(arch: Arch, folder: Path) -> dict[str, float]:
    """Seconds and peak memory of the assembler, a single process, where its packages are installed."""
    job = _prepare(arch, folder)
    job.run(folder / "thrown away")  # it reads from the disk
    cold = job.run(folder / "bytecode")
    warm = [job.run(folder / "bytecode") for _ in range(ROUNDS)]
    what = f"everything for {arch.name}: closure and assembly"
    return {
        f"{what}, no bytecode cached, s": round(cold.seconds, 1),
        f"{what}, s": round(statistics.median(one.seconds for one in warm), 1),
        f"{what}, peak memory, MB": round(max(one.peak_bytes for one in (cold, *warm)) / 1e6),
    }


@dataclass(frozen=True)
class _Used:
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class _Assembly:
    """What the oci driver would start."""

    command: Sequence[str]
    context: Path
    base: Path
    packages: Path
    out: Path

    def run(self, bytecode: Path) -> _Used:
        """Assembles, and clears away what was made."""
        arguments = assembler_arguments(
            context=str(self.context),
            root=str(self.base),
            out=str(self.out),
            packages=str(self.packages),
            bytecode=str(bytecode),
        )
        started = time.monotonic()
        process = subprocess.Popen([*self.command, *arguments], stdout=subprocess.DEVNULL, env={}, cwd="/")
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit("error: the assembler failed")
        shutil.rmtree(self.out)
        return _Used(seconds, used.ru_maxrss * 1024)


def _prepare(arch: Arch, folder: Path) -> _Assembly:
    config, _ = load_config(EVERYTHING, {})
    options = Options(
        config_path=EVERYTHING,
        arches=(arch,),
        output=folder,
        cache=cache(),
    )
    locked = pipeline.read_locked(config, options, QUIET)
    assert locked is not None
    opened = open_packages(locked, arch, cache=cache(), progress=QUIET, wheelhouse=None, index=True)
    supplement = Supplement(config, arch, opened.identity, cache(), QUIET, refresh=False)
    plan = pipeline.plan_of(config, arch, options, locked)
    while True:
        try:
            return _assembly(plan.with_packages(supplement.packages), opened, folder)
        except LibrariesMissing as error:
            supplement.add(error)


def _assembly(plan: BuildPlan, opened: Packages, folder: Path) -> _Assembly:
    """LibrariesMissing where the base of `plan` needs more of Debian."""
    base = open_base(
        plan.base,
        packages=plan.base_packages,
        mirror=plan.base_mirror,
        cache=cache(),
        refresh=False,
        progress=QUIET,
    )
    target, own = base.rootfs(plan.arch), base.build_rootfs()
    assert target is not None
    assert own is not None
    tree_contents(plan.spec, Root(target.directory, opened.directory), lambda _: None)
    context = folder / "context"
    write_context(plan, context, None, None)
    command = assembler_command(own.directory, plan.spec, host_arch())
    return _Assembly(command, context, target.directory, opened.directory, folder / "out")


# Whole builds


def builds(folder: Path) -> dict[str, float]:
    """Seconds of a whole build for this machine, its proof included; `folder`/dist has the image then."""
    home = folder / "cache" / "sandbox-build"
    home.mkdir(parents=True)
    for name in KEPT:
        (cache() / name).mkdir(exist_ok=True)
        (home / name).symlink_to(cache() / name)
    env = {"XDG_CACHE_HOME": str(folder / "cache")}
    what = f"everything for {host_arch().name}: build"
    figures = {}
    for case, output in (
        ("from wheels in the cache", "first"),
        ("of installed packages", "dist"),
        ("when nothing changed", "dist"),
    ):
        started = time.monotonic()
        build(EVERYTHING, folder / output, host_arch(), env=env, quiet=True)
        figures[f"{what} {case}, s"] = round(time.monotonic() - started, 1)
        shutil.rmtree(folder / "first", ignore_errors=True)
    shutil.rmtree(home / "packages")
    return figures


# Proof


def proofs(output: Path, folder: Path) -> dict[str, float]:
    """The proof of all imports, over importing them one after another in a plain interpreter each."""
    root = jailrun.unpack(output / host_arch().name / "image.tar", folder)
    report = json.loads((root / REPORT_PATH.lstrip("/")).read_bytes())
    ratios, plain_s = [], []
    for turn in range(ROUNDS + 1):
        proof = prove(root, report, host_arch(), QUIET)
        plain = _plain_imports(root, [one.name for one in proof.imports])
        if turn:  # the first one reads from the disk
            ratios.append(proof.seconds / plain)
            plain_s.append(plain)
    what = f"everything for {host_arch().name}: proof of {len(proof.imports)} imports"
    return {
        "the same imports in a plain interpreter each, s": round(statistics.median(plain_s), 1),
        f"{what}, over these": round(statistics.median(ratios), 2),
    }


def _plain_imports(root: Path, names: Sequence[str]) -> float:
    """Seconds; every import must succeed."""
    settings = json.loads((root / "sandbox/runtime.json").read_bytes())
    tree = root / TREE_PATH.lstrip("/")
    code = "import sys; name, *sys.path[:] = sys.argv[1:]; __import__(name)"
    # Looked up here: PATH is to be the jail's.
    chroot = shutil.which("chroot") or "/usr/sbin/chroot"
    command = [chroot, str(tree), settings["python"], "-I", "-S", "-B", "-c", code]
    seconds = 0.0
    for name in names:
        # As in the jail: a folder of its own, empty.
        with tempfile.TemporaryDirectory(dir=tree / "tmp") as own:
            inside = f"/{Path(own).relative_to(tree)}"
            env = dict(settings["env"]) | {"HOME": inside, "TMPDIR": inside}
            started = time.monotonic()
            subprocess.run(
                [*command, name, *settings["sys_path"]],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            seconds += time.monotonic() - started
    return seconds


# Lock


def locks(folder: Path) -> dict[str, float]:
    """Seconds of `lock` where what the index says is cached."""
    config = folder / EVERYTHING.name
    shutil.copy(EVERYTHING, config)
    took = []
    for _ in range(2):
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "builder", "lock", f"--config={config}"],
            cwd=EVERYTHING.parents[2],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        took.append(time.monotonic() - started)
    return {"everything, both architectures: lock, s": round(took[-1], 1)}
