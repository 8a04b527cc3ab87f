"""The assembled folder: what is on disk in the end, and that nothing is there after a failure."""

from __future__ import annotations

import argparse
import asyncio.base_events
import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.tree.bundle import write_bundle
from builder.tree.spec import TREE_PATH, Rule
from tests.fakeroot import ARCH, LIBRARIES, PYTHON, STDLIB, VERSION, spec
from tests.workshop import Workshop, entries, load, run_bundle, shape

EPOCH = spec().epoch
SITE = "/usr/lib/python3/dist-packages"


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_the_images_root_is_the_tree_seen_through_links(shop: Workshop) -> None:
    """Each top entry of the tree has a link, save those that an engine mounts over or writes into."""
    shop.assemble()
    links = {p.name: os.readlink(p) for p in shop.image.iterdir() if p.is_symlink()}  # noqa: PTH115
    assert links == {name: f"{TREE_PATH[1:]}/{name}" for name in ("usr", ARCH.loader.split("/")[1], "lib")}
    folders = {p.name: stat.S_IMODE(p.stat().st_mode) for p in shop.image.iterdir() if not p.is_symlink()}
    plain = dict.fromkeys(("dev", "etc", "proc", "run", "sandbox", "sys", "var"), 0o755)
    assert folders == {**plain, "tmp": 0o1777}
    # What an engine mounts at these is in the jail too, where the engine follows links.
    for name in ("hosts", "resolv.conf"):
        assert (shop.image / "etc" / name).resolve() == shop.tree / "run" / name
    assert (shop.image / f"usr/lib/{PYTHON}/os.py").samefile(shop.tree / f"usr/lib/{PYTHON}/os.py")


def test_folders_of_the_tree_in_var_are_seen_through_links(shop: Workshop) -> None:
    """/var of the image holds the tree, and a link for whatever config.yaml lists in the base's /var."""
    shop.root.write("/var/lib/data/table.csv", "1")
    shop.assemble(spec(python_lib_path=("/var/lib/data",)))
    assert (shop.image / "var/lib/data/table.csv").read_text() == "1"


@pytest.mark.parametrize("listed", ["/sandbox/x", "/var/sandbox/x"])
def test_a_base_cannot_put_files_where_the_runtime_is(shop: Workshop, listed: str) -> None:
    """/sandbox is the image's own; the same place in a base is refused and nothing is left."""
    shop.root.write(f"{listed}/file")
    with pytest.raises(BuildError, match="cannot be in the tree"):
        shop.assemble(spec(python_lib_path=(listed,)))
    assert not shop.out.exists()


def test_modes_owners_and_times_are_the_same_whatever_the_base_has(shop: Workshop) -> None:
    """Set-id and sticky bits, odd modes and the umask do not show; only two files are programs."""
    shop.root.write(f"{STDLIB}/suid.py", mode=0o6777)
    shop.root.write(f"{STDLIB}/secret.py", mode=0o400)
    shop.root.write(f"{STDLIB}/tool.sh", mode=0o755)
    shop.root.host(f"{STDLIB}/json").chmod(0o1700)
    before = os.umask(0o077)
    try:
        shop.assemble()
    finally:
        os.umask(before)
    programs = {shop.tree / f"usr/bin/{PYTHON}", shop.tree / f"{LIBRARIES[1:]}/ld-real.so"}
    programs.add(shop.image / "sandbox/init")
    for path in entries(shop.image):
        status = path.lstat()
        assert status.st_mtime == EPOCH, path
        if not path.is_symlink() and path != shop.image / "tmp":
            wanted = 0o755 if path.is_dir() or path in programs else 0o644
            assert stat.S_IMODE(status.st_mode) == wanted, path
    assert shop.image.stat().st_mtime == EPOCH


def test_no_file_shares_an_inode(shop: Workshop) -> None:
    """Files with several names in the base are copies in the tree: writing one changes no other."""
    os.link(shop.root.host(f"{STDLIB}/os.py"), shop.root.host(f"{STDLIB}/hard.py"))
    shop.assemble()
    base = {(p.stat().st_dev, p.stat().st_ino) for p in entries(shop.root.directory) if p.is_file()}
    for path in entries(shop.image):
        if path.is_file() and not path.is_symlink():
            assert path.stat().st_nlink == 1, path
            assert (path.stat().st_dev, path.stat().st_ino) not in base


def test_no_link_leads_out_of_the_tree_or_to_nothing(shop: Workshop) -> None:
    """Followed by this machine's kernel, with no chroot, every link of the tree ends inside the tree."""
    shop.root.write("/opt/deep/folder/file.py")
    shop.root.symlink("/opt/short", "/opt/deep/folder")
    targets = ("/opt/short/file.py", "../../../../opt/short/file.py", "/opt/short/../folder")
    for number, target in enumerate(targets):
        shop.root.symlink(f"{STDLIB}/link{number}", target)
    shop.root.symlink(f"{STDLIB}/host", "/etc/hostname")
    report = shop.assemble()
    links = [path for path in entries(shop.tree) if path.is_symlink()]
    assert len(links) >= 6
    for link in links:
        assert shop.tree in link.resolve(strict=True).parents, link
    assert len(report.warnings) == 1


def test_names_that_are_not_utf8_are_kept(shop: Workshop) -> None:
    """The very bytes of a name are in the tree, its module is compiled, and the report is still JSON."""
    name = os.fsdecode(b"caf\xe9.py")
    shop.root.write(f"{STDLIB}/{name}", "x = 1\n")
    shop.root.symlink(os.fsdecode(os.fsencode(STDLIB) + b"/\xff"), "nowhere")
    report = shop.assemble()
    assert (shop.tree / STDLIB[1:] / name).read_text() == "x = 1\n"
    assert len(list((shop.tree / STDLIB[1:] / "__pycache__").glob(os.fsdecode(b"caf\xe9.*.pyc")))) == 1
    assert "\udcff" in report.warnings[0]
    assert json.loads((shop.image / "sandbox/report.json").read_text())["warnings"] == [*report.warnings]


def test_the_runtime_is_bytecode_beside_the_tree(shop: Workshop) -> None:
    """/sandbox: sourceless modules, the native parts, the policy as it is, and what the runtime must know."""
    shop.assemble(spec(runtime={"level": "any"}, calls={"arch": "amd64", "calls": {}}))
    sandbox = shop.image / "sandbox"
    assert sorted(str(path.relative_to(sandbox)) for path in entries(sandbox)) == [
        "calls.json",
        "entrypoint.pyc",
        "init",
        "policy.bpf",
        "report.json",
        "runtime",
        "runtime.json",
        "runtime/__init__.pyc",
        "runtime/_syscall.abi3.so",
        "runtime/jail.pyc",
        "secrets.json",
        "supervisor.pyc",
    ]
    assert (sandbox / "init").stat().st_mode & 0o777 == 0o755
    assert json.loads((sandbox / "calls.json").read_text()) == {"arch": "amd64", "calls": {}}
    assert load(sandbox / "entrypoint.pyc").co_filename == "/sandbox/entrypoint.py"
    assert load(sandbox / "runtime/jail.pyc").co_filename == "/sandbox/runtime/jail.py"
    assert (sandbox / "policy.bpf").read_bytes() == shop.policy.read_bytes()
    facts = json.loads((sandbox / "runtime.json").read_text())
    assert facts["level"] == "any"
    assert facts["python"] == f"/usr/bin/{PYTHON}"
    assert facts["sys_path"][1] == STDLIB
    command = [sys.executable, "-I", "-S", str(sandbox / "entrypoint.pyc")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "entry\n"


def test_the_runtime_knows_what_is_installed(shop: Workshop) -> None:
    """Each distribution whose metadata is in the tree, once, by the name that is imported; no pruned one."""
    for site, name, version in (
        (SITE, "Zope.Interface", "7"),
        (SITE, "numpy", "2.2"),
        (SITE, "pip", "25"),
        ("/opt/site-packages", "NumPy", "1.0"),
    ):
        info = f"{site}/{name}-{version}.dist-info"
        shop.root.write(f"{info}/METADATA", f"Name: {name}\nVersion: {version}\n")
    pruned = (Rule("{site}/pip-*", "nothing is installed inside the jail"),)
    shop.assemble(spec(python_lib_path=(SITE, "/opt/site-packages"), prune=pruned))
    facts = json.loads((shop.image / "sandbox/runtime.json").read_text())
    assert facts["dependencies"] == [
        {"name": "numpy", "version": "2.2"},
        {"name": "Zope.Interface", "version": "7"},
    ]


def test_the_report_counts_what_is_there(shop: Workshop) -> None:
    """Files and bytes of the tree, links not counted."""
    report = shop.assemble()
    files = [path for path in entries(shop.tree) if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    assert report.facts["totals"] == {"files": len(files), "bytes": size}
    python = report.facts["python"]
    found = [python[name] for name in ("path", "version", "stdlib")]
    assert found == [f"/usr/bin/{PYTHON}", VERSION, STDLIB]


def test_the_same_base_gives_the_same_bytes(shop: Workshop) -> None:
    """Also from a copy of the base with other times, in another folder, assembled by another process."""
    for module in (argparse, asyncio.base_events, dataclasses, typing):
        shutil.copy(str(module.__file__), shop.root.host(STDLIB))
    shop.assemble()
    copy = shop.folder / "elsewhere"
    shutil.copytree(shop.root.directory, copy, symlinks=True)
    for path in entries(copy):
        os.utime(path, (1, 1), follow_symlinks=False)
    (shop.folder / "spec.json").write_text(spec().to_json())
    write_bundle(shop.folder / "assembler")
    second = shop.folder / "second"
    run_bundle(shop, root=copy, out=second)
    assert shape(shop.image) == shape(second / "root")
