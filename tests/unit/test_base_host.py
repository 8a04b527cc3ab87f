"""This machine as base: what a Dockerfile's stage gets of it is enough, and no more than the tree's."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

from builder.arch import host_arch
from builder.base.host import HostRootfs
from builder.bases import default_python_path
from builder.config import parse_base
from builder.progress import Progress
from builder.rules import tree_rules
from builder.tree.contents import tree_contents
from builder.tree.owners import find_owners
from builder.tree.root import Root
from builder.tree.spec import TreeSpec


def host_spec() -> TreeSpec:
    """The standard library of the interpreter that runs us, by the shipped rules."""
    return TreeSpec(host_arch().name, "host", default_python_path(parse_base("host")), (), **tree_rules())


def test_the_tar_of_the_host_gives_the_same_tree_as_the_host(tmp_path: Path) -> None:
    """Unpacked, it is a root whose tree has the same entries; nothing else of this machine is in it."""
    spec = host_spec()
    HostRootfs(Progress(quiet=True)).write_tar(tmp_path / "host.tar", spec, None)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "host.tar", "-C", folder], check=True)

    host = tree_contents(spec, Root(Path("/")), lambda _: None)
    ours = tree_contents(spec, Root(folder), lambda _: None)
    # What we supplied the first time is a file of the base the second time.
    for name in ("directories", "links", "modules", "sourceless", "executables", "sys_path", "warnings"):
        assert getattr(ours, name) == getattr(host, name), name
    assert ours.files | set(ours.texts) == host.files | set(host.texts)
    assert ours.texts["/etc/ld.so.cache"] == host.texts["/etc/ld.so.cache"]
    unpacked = {f"/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
    extra = {path for path in unpacked - host.files - set(host.texts) if not (folder / path[1:]).is_symlink()}
    read = ("/etc/ld.so.conf", "/etc/os-release", "/usr/lib/os-release", "/var/lib/dpkg/")
    assert {path for path in extra if not path.startswith(read)} == set()
    assert find_owners(ours, Root(folder), spec.arch) == find_owners(host, Root(Path("/")), spec.arch)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".host-")] == []


def test_the_interpreter_in_the_tar_starts(tmp_path: Path) -> None:
    """As in the Dockerfile's stage: by its own path, with its loader's cache, in a root of that tar alone."""
    spec = host_spec()
    HostRootfs(Progress(quiet=True)).write_tar(tmp_path / "host.tar", spec, None)
    with tarfile.open(tmp_path / "host.tar") as tar:
        assert {member.uid for member in tar} == {0}
    folder = tmp_path / "unpacked"
    folder.mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "host.tar", "-C", folder], check=True)
    # An ordinary user may chroot in a user namespace of his own.
    chroot = ["chroot"] if os.getuid() == 0 else ["unshare", "--map-root-user", "chroot"]
    code = "import argparse, json, hashlib, zlib; print('starts')"
    command = [*chroot, str(folder), spec.python_path, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("starts\n", "")
