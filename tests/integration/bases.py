"""Fetches Debian's packages once, and assembles trees from them the way the oci driver does."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.arch import Arch, host_arch
from builder.base import assembler_command
from builder.base.debian import DebianBase
from builder.bases import find_suite
from builder.progress import Progress
from builder.rules import tree_rules
from builder.tree.bundle import write_bundle
from builder.tree.spec import REPORT_PATH, TREE_PATH, TreeSpec
from tests.fakeroot import elf

QUIET = Progress(quiet=True)
ENVIRONMENT = {"LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

IMPORTS = """
import importlib, json, os, sys, warnings
warnings.simplefilter("ignore")
stdlib = os.path.dirname(os.__file__)
names = [name.split(".")[0] for name in os.listdir(stdlib + "/lib-dynload")]
for folder, folders, files in os.walk(stdlib):
    folders[:] = [f for f in folders if f not in ("lib-dynload", "__pycache__", "dist-packages")]
    for file in files:
        name, suffix = os.path.splitext(os.path.relpath(os.path.join(folder, file), stdlib))
        if suffix in (".py", ".pyc"):
            names.append(name.replace("/", ".").removesuffix(".__init__"))
failed = {}
for name in sorted(set(names) - {"antigravity", "this"}):
    if name.split(".")[-1] == "__main__":
        continue
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = repr(error)
print(json.dumps([len(names), failed]))
"""

USE = """
import bz2, ctypes, datetime, decimal, hashlib, json, lzma, mimetypes, pwd, socket, sqlite3, ssl, sys
import traceback, zoneinfo
summer = datetime.datetime(2025, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
connection = sqlite3.connect(":memory:")
try:
    json.loads("{")
except ValueError:
    trace = traceback.format_exc()
print(json.dumps({
    "certificates": len(ssl.create_default_context().get_ca_certs()),
    "sqlite": connection.execute("select 6 * 7").fetchone()[0],
    "ctypes": ctypes.CDLL(None).abs(-5),
    "sha": hashlib.sha3_256(b"").hexdigest()[:8],
    "decimal": str(decimal.Decimal(1) / 3)[:6],
    "lzma": lzma.decompress(lzma.compress(b"x")).decode(),
    "bz2": bz2.decompress(bz2.compress(b"x")).decode(),
    "offset_h": summer.utcoffset().seconds // 3600,
    "local": str(datetime.datetime.now().astimezone().tzinfo),
    "zones": len(zoneinfo.available_timezones()) > 400,
    "user": pwd.getpwuid(65534).pw_name,
    "https": socket.getservbyname("https"),
    "localhost": socket.gethostbyname("localhost"),
    "docx": mimetypes.guess_type("a.docx")[0] is not None,
    "gbk": b"\\xc4\\xe3".decode("gbk") == "\\u4f60",
    "source line": "return _default_decoder.decode(s)" in trace,
    "file": json.loads.__code__.co_filename,
    "cached": json.__spec__.cached,
    "path": sys.path,
}))
"""


@dataclass(frozen=True)
class Assembled:
    """One tree that was assembled from a suite."""

    suite: str
    arch: Arch
    image: Path
    report: dict[str, Any]
    """report.json."""
    took_s: float
    lines: list[str]

    @property
    def version(self) -> str:
        """Of its Python, as 3.13."""
        return str(self.report["python"]["version"])

    @property
    def tree(self) -> Path:
        return self.image / TREE_PATH[1:]

    def python(self, code: str) -> str:
        """What `code` prints when the tree's interpreter runs it in a chroot of the tree."""
        chroot = ["chroot"] if os.getuid() == 0 else ["unshare", "--map-root-user", "chroot"]
        command = [*chroot, str(self.tree), self.report["python"]["path"], "-I", "-S", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
        assert done.stderr == ""
        return done.stdout


class Bases:
    """Fetches each suite once in a session, and assembles from it the way the oci driver does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self._assembled: dict[tuple[str, str], Assembled] = {}
        write_bundle(folder / "assembler")
        (folder / "runtime").mkdir()
        (folder / "runtime" / "entrypoint.py").write_text("")
        for name in ("_syscall.abi3.so", "init"):
            (folder / "runtime" / name).write_bytes(elf())
        (folder / "policy.bpf").write_bytes(b"policy")

    def open(self, suite: str, *, refresh: bool = False) -> DebianBase:
        return DebianBase(suite, mirror=None, cache=self.cache, refresh=refresh, progress=QUIET)

    def spec(self, suite: str, arch: Arch) -> TreeSpec:
        python_path = find_suite(suite).python_path
        return TreeSpec(arch.name, f"debian:{suite}", python_path, None, **tree_rules())

    def assembled(self, suite: str, arch: Arch) -> Assembled:
        key = (suite, arch.name)
        if key not in self._assembled:
            self._assembled[key] = self.assemble(suite, arch, self.open(suite).rootfs(arch).directory)
        return self._assembled[key]

    def assemble(self, suite: str, arch: Arch, root: Path, name: str = "") -> Assembled:
        """Assembles `root` by the interpreter of this machine's own base, started by its loader."""
        spec = self.spec(suite, arch)
        own = self.open(suite).build_rootfs()
        out = self.folder / f"{name or suite}-{arch.name}"
        (self.folder / "spec.json").write_text(spec.to_json())
        options = {"root": root, "spec": self.folder / "spec.json", "runtime": self.folder / "runtime"}
        options |= {"policy": self.folder / "policy.bpf", "out": out}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [*assembler_command(own.directory, spec, host_arch())]
        command += [str(self.folder / "assembler"), *words]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={}, cwd="/")
        assert (done.returncode, done.stderr) == (0, "")
        took_s = time.monotonic() - started
        report = json.loads((out / "root" / REPORT_PATH[1:]).read_text())
        return Assembled(suite, arch, out / "root", report, took_s, done.stdout.splitlines())
