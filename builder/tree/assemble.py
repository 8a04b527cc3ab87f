"""The assembly, top to bottom: root filesystem + TreeSpec + runtime -> the image's root and a report."""

from __future__ import annotations

import json
import os
import posixpath
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.errors import BuildError, room_hint
from builder.tree.bytecode import Compiler, check_version
from builder.tree.contents import Contents, tree_contents
from builder.tree.distributions import Distribution, normalized
from builder.tree.interpreter import read_release
from builder.tree.layers import Placement, part
from builder.tree.origin import Origins, report_text
from builder.tree.origins import find_origins
from builder.tree.owners import find_owners, os_release, to_report
from builder.tree.root import Root
from builder.tree.spec import INIT_PATH, REPORT_FORMAT, REPORT_PATH, SANDBOX_PATH, TREE_PATH, TreeSpec
from builder.tree.write import (
    FILE_MODE,
    FOLDER_MODE,
    PROGRAM_MODE,
    compile_contents,
    copy_contents,
    normalize,
    set_time,
)

STARTED = ("entrypoint.py", "supervisor.py", "zygote.py")
"""The runtime's files that an interpreter is started with; the others are modules."""

MOUNT_POINTS = ("dev", "proc", "sys", "tmp")
"""Real folders of the image: an engine mounts over them."""

SHARED_FOLDERS = ("etc", "run", "var")
"""Real folders of the image with a link for each entry of the tree's own: an engine writes its own hosts,
hostname and resolv.conf into /etc, and /var holds the tree."""


@dataclass(frozen=True)
class Report:
    """What report.json says: origin.py has the shapes of its larger parts."""

    facts: Mapping[str, Any]

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self.facts["warnings"])

    def to_json(self) -> str:
        """The same report, the same bytes."""
        return report_text(self.facts)


def assemble(
    spec: TreeSpec,
    *,
    root: Path,
    runtime: Path,
    policy: Path,
    out: Path,
    packages: Path | None = None,
    bytecode: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Makes the folder `out`: one folder for each layer of the spec, which together are the image's root.

    `root` is the base's root filesystem, only read; `runtime` has the runtime's *.py and _syscall.abi3.so,
    `policy` is the compiled filter, `packages` is what lies at PACKAGES_PATH, `bytecode` is a cache of what
    was compiled earlier. `out` must not exist, and after a failure it does not. ConfigError for what
    config.yaml asks of the base and it lacks; BuildError for everything else, a full disk included.
    """
    partial = out.with_name(f"{out.name}.partial")
    try:
        if out.exists():
            raise BuildError(f"{out} exists already", "name a folder that does not exist yet")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            compiler = Compiler(bytecode)
            report = _assemble(spec, Root(root, packages), runtime, policy, partial, compiler, progress)
            partial.rename(out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        if hint := room_hint(error):
            # `filename` is what was being copied, or nothing.
            raise BuildError(f"{out}: {error.strerror}", hint) from None
        raise BuildError(f"{error.filename}: {error.strerror}") from None
    return report


def _assemble(
    spec: TreeSpec,
    root: Root,
    runtime: Path,
    policy: Path,
    out: Path,
    compiler: Compiler,
    progress: Callable[[str], None],
) -> Report:
    contents = tree_contents(spec, root, progress)
    check_version(contents.interpreter.version, spec.base)
    image = out / ".whole"
    tree = image / TREE_PATH[1:]
    tree.mkdir(parents=True)
    copy_contents(contents, root, tree, spec.epoch, progress)
    compile_contents(contents, root, tree, spec.epoch, progress, compiler)
    progress("writing the runtime")
    _write_runtime(spec, contents, runtime, policy, image / SANDBOX_PATH[1:])
    origins = find_origins(contents, root, spec)
    report = _report(spec, contents, origins, root, tree)
    (image / REPORT_PATH[1:]).write_text(report.to_json())
    _write_image_root(image, tree, spec)
    _normalize(image, tree, spec.epoch)
    progress("parting the layers")
    for layer in spec.layers:  # the Dockerfile names them all
        (out / layer.name).mkdir()
    place = Placement(spec.layers, origins, Root(tree))
    part(image, out, place, empty=spec.layers[-1].name, epoch=spec.epoch)
    return report


def _write_runtime(spec: TreeSpec, contents: Contents, runtime: Path, policy: Path, sandbox: Path) -> None:
    """/sandbox: sourceless bytecode, native parts, the filter, calls.json, runtime.json and secrets.json."""
    package = sandbox / "runtime"
    package.mkdir(parents=True)
    for source in sorted(runtime.glob("*.py")):
        started = source.name in STARTED
        place = sandbox if started else package
        jail_path = posixpath.join(SANDBOX_PATH, "" if started else "runtime", source.name)
        compiled = Compiler().compile(source.read_bytes(), jail_path)
        if compiled is None:
            version = ".".join(map(str, contents.interpreter.version))
            raise BuildError(f"{source} is not valid Python {version}")
        (place / f"{source.stem}.pyc").write_bytes(compiled)
    shutil.copyfile(runtime / "_syscall.abi3.so", package / "_syscall.abi3.so")
    shutil.copyfile(runtime / "init", sandbox / "init")
    for handed_out in sorted(runtime.glob("*.json")):
        shutil.copyfile(handed_out, sandbox / handed_out.name)
    shutil.copyfile(policy, sandbox / "policy.bpf")
    # Small: it is read in a run, while a denied call waits.
    (sandbox / "calls.json").write_text(json.dumps(spec.calls, sort_keys=True, separators=(",", ":")) + "\n")
    facts = spec.runtime | {
        "python": contents.interpreter.path,
        "sys_path": contents.sys_path,
        "dependencies": _dependencies(contents),
    }
    # Code in the jail finds what runtime.json says in the runtime's frames. This the server alone reads.
    secrets = {"upstream_proxy": facts.pop("upstream_proxy", None)}
    if "serve" in facts:
        facts["serve"] = dict(facts["serve"])
        secrets["key_sha256"] = facts["serve"].pop("key_sha256")
    (sandbox / "secrets.json").write_text(_json(secrets))
    (sandbox / "runtime.json").write_text(_json(facts))


def _dependencies(contents: Contents) -> list[dict[str, str]]:
    """Name and version of each distribution in the tree; of two with one name the one that is imported."""
    found: dict[str, Distribution] = {}
    for one in contents.distributions:  # in the order in which Python looks for modules
        if one.path in contents.directories or one.path in contents.files:
            found.setdefault(normalized(one.name), one)
    return [{"name": one.name, "version": one.version} for _, one in sorted(found.items())]


def _write_image_root(image: Path, tree: Path, spec: TreeSpec) -> None:
    """Links that make the image's root the tree, seen from outside the jail, and an engine's mount points."""
    for name in (*MOUNT_POINTS, *SHARED_FOLDERS):
        (image / name).mkdir(exist_ok=True)
    for entry in sorted(tree.iterdir()):
        if entry.name in SHARED_FOLDERS and entry.is_dir() and not entry.is_symlink():
            for inner in sorted(entry.iterdir()):
                _link(image / entry.name / inner.name, f"{TREE_PATH}/{entry.name}/{inner.name}", image, spec)
        elif entry.name not in (*MOUNT_POINTS, *SHARED_FOLDERS):
            _link(image / entry.name, f"{TREE_PATH}/{entry.name}", image, spec)


def _link(link: Path, jail_path: str, image: Path, spec: TreeSpec) -> None:
    if link.exists():
        shown = f"/{link.relative_to(image)}"
        raise BuildError(f"{shown} of {spec.base} cannot be in the tree: the image's own {shown} is there")
    link.symlink_to(posixpath.relpath(jail_path, f"/{link.parent.relative_to(image)}"))


def _normalize(image: Path, tree: Path, epoch: int) -> None:
    """Modes and times of everything but the tree, which has them already."""
    for folder, folders, files in os.walk(image, topdown=False):
        here = Path(folder)
        if here == tree or tree in here.parents:
            continue
        for name in (*files, *folders):
            path = here / name
            if path.is_symlink() or path == tree:
                set_time(path, epoch)
            else:
                file_mode = PROGRAM_MODE if path == image / INIT_PATH[1:] else FILE_MODE
                normalize(path, FOLDER_MODE if path.is_dir() else file_mode, epoch)
    normalize(image / "tmp", 0o1777, epoch)
    normalize(image, FOLDER_MODE, epoch)


def _report(spec: TreeSpec, contents: Contents, origins: Origins, root: Root, tree: Path) -> Report:
    """What the tree in the folder `tree` holds, why, whose it is, and what was promised of it."""
    python = contents.interpreter
    libraries = (path for path in sorted(contents.files) if posixpath.basename(path).startswith("libpython"))
    facts = {
        "format": REPORT_FORMAT,
        "arch": spec.arch,
        "base": spec.base,
        "os_release": os_release(root),
        "python": {
            "path": python.path,
            "version": ".".join(map(str, python.version)),
            "release": read_release(root, python.version, (python.executable, *libraries)),
            "stdlib": python.stdlib,
            "sys_path": contents.sys_path,
        },
        "distributions": [asdict(one) for one in contents.distributions],
        "promises": spec.promises,
        "optional_libraries": spec.optional_libraries,
        "warnings": contents.warnings,
    }
    held = origins.to_report(tree)
    owned = find_owners(contents, root, spec.arch)
    claimed = {f"{one.name} {one.version}".strip() for one in contents.distributions}
    return Report(facts | held | to_report(held["files"], origins.origins, owned, claimed))


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, sort_keys=True) + "\n"
