"""The assembled folder: what is on disk in the end, and that nothing is there after a failure."""

from __future__ import annotations

import argparse
import asyncio.base_events
import dataclasses
import json
import marshal
import os
import shutil
import stat
import subprocess
import sys
import time
import typing
from collections.abc import Callable, Iterator
from importlib.util import cache_from_source, source_hash
from pathlib import Path
from types import CodeType

import pytest

from builder.errors import BuildError, ConfigError
from builder.tree.assemble import Report, assemble
from builder.tree.bundle import write_bundle
from builder.tree.spec import TREE_PATH, Rule, TreeSpec
from tests.fakeroot import ARCH, LIBRARIES, PYTHON, STDLIB, VERSION, FakeRoot, elf, python_root, spec

EPOCH = spec().epoch


class Workshop:
    """A base, a runtime and a policy; assembles into folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = python_root(folder / "base")
        self.runtime = folder / "runtime"
        self.runtime.mkdir()
        (self.runtime / "__init__.py").write_text("")
        (self.runtime / "jail.py").write_text("def lock():\n    pass\n")
        (self.runtime / "entrypoint.py").write_text("print('entry')\n")
        (self.runtime / "_syscall.abi3.so").write_bytes(elf())
        self.policy = folder / "policy.bpf"
        self.policy.write_bytes(b"\6\0\0\0\0\0\0\0")
        self.out = folder / "out"

    def assemble(self, plan: TreeSpec | None = None, out: Path | None = None) -> Report:
        return assemble(
            plan or spec(),
            root=self.root.directory,
            runtime=self.runtime,
            policy=self.policy,
            out=out or self.out,
        )

    @property
    def image(self) -> Path:
        return self.out / "root"

    @property
    def tree(self) -> Path:
        return self.image / TREE_PATH[1:]


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def entries(folder: Path) -> Iterator[Path]:
    """Everything below a folder, no link followed."""
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(here, name)


def shape(folder: Path) -> dict[str, tuple[int, float, bytes | str]]:
    """Mode, time and content of everything below a folder."""
    result = {}
    for path in entries(folder):
        status = path.lstat()
        content: bytes | str = b""
        if path.is_symlink():
            content = os.readlink(path)  # noqa: PTH115
        elif path.is_file():
            content = path.read_bytes()
        result[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime, content)
    return result


def load(pyc: Path) -> CodeType:
    code = marshal.loads(pyc.read_bytes()[16:])
    assert isinstance(code, CodeType)
    return code


def test_the_images_root_is_the_tree_seen_through_links(shop: Workshop) -> None:
    """Each top entry of the tree has a link, save those that an engine mounts over or writes into."""
    shop.assemble()
    links = {p.name: os.readlink(p) for p in shop.image.iterdir() if p.is_symlink()}  # noqa: PTH115
    assert links == {name: f"{TREE_PATH[1:]}/{name}" for name in ("usr", ARCH.loader.split("/")[1], "lib")}
    folders = {p.name: stat.S_IMODE(p.stat().st_mode) for p in shop.image.iterdir() if not p.is_symlink()}
    plain = dict.fromkeys(("dev", "etc", "proc", "run", "sandbox", "sys", "var"), 0o755)
    assert folders == {**plain, "tmp": 0o1777}
    assert (shop.image / "etc/hosts").resolve() == shop.tree / "etc/hosts"
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
    assert Report.from_json((shop.out / "report.json").read_text()) == report


def test_bytecode_is_unchecked_and_names_the_jails_paths(shop: Workshop) -> None:
    """PEP 552: flags 0b01, then the source's hash; every code object's file is where the jail has it."""
    shop.assemble()
    source = shop.tree / STDLIB[1:] / "json/__init__.py"
    pyc = Path(cache_from_source(str(source)))
    assert pyc.read_bytes()[4:8] == b"\1\0\0\0"
    assert pyc.read_bytes()[8:16] == source_hash(source.read_bytes())
    code = load(pyc)
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    assert {c.co_filename for c in (code, *inner)} == {f"{STDLIB}/json/__init__.py"}
    for path in entries(shop.image):
        if path.suffix == ".pyc":
            assert str(shop.folder).encode() not in path.read_bytes(), path


def test_the_bases_own_bytecode_is_replaced(shop: Workshop) -> None:
    """A stale or hostile .pyc of the base is not what the jail imports."""
    stale = shop.root.write(cache_from_source(f"{STDLIB}/json/__init__.py"), b"stale")
    shop.root.write(f"{STDLIB}/json/__pycache__/ghost.cpython-30.pyc", b"stale")
    shop.assemble()
    cache = shop.tree / STDLIB[1:] / "json/__pycache__"
    assert [path.name for path in cache.iterdir()] == [stale.name]
    assert (cache / stale.name).read_bytes() != b"stale"


def test_a_source_that_is_not_python_is_kept_without_bytecode(shop: Workshop) -> None:
    """A file for a syntax of another version, and one with bytes that are no text, stop nothing."""
    shop.root.write(f"{STDLIB}/old.py", "print 'hello'\n")
    shop.root.write(f"{STDLIB}/bytes.py", b"\xff\xfe\0x = 1")
    report = shop.assemble()
    assert report.warnings == ()
    assert (shop.tree / STDLIB[1:] / "old.py").exists()
    assert not Path(cache_from_source(str(shop.tree / STDLIB[1:] / "old.py"))).exists()


def test_a_module_without_its_source_and_a_link_to_a_module_have_bytecode(shop: Workshop) -> None:
    """A table is table.pyc alone, and imports; a link is compiled under the name by which it is imported."""
    shop.root.write(f"{STDLIB}/table.py", "x = 5\n")
    shop.root.write("/opt/real.py", "y = 6\n")
    shop.root.symlink(f"{STDLIB}/linked.py", "/opt/real.py")
    shop.assemble(spec(sourceless=(Rule("{stdlib}/table.py", "a table"),)))
    library = shop.tree / STDLIB[1:]
    assert not (library / "table.py").exists()
    code = "import sys; sys.path.insert(0, sys.argv[1]); import table, linked; print(table.x + linked.y)"
    command = [sys.executable, "-I", "-S", "-c", code, str(library)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "11\n"
    assert load(Path(cache_from_source(str(library / "linked.py")))).co_filename == f"{STDLIB}/linked.py"


def test_modules_inside_the_interpreter_have_no_bytecode(shop: Workshop) -> None:
    """`os` is frozen: its source is there for tracebacks, and a .pyc would never be read."""
    shop.assemble()
    assert (shop.tree / STDLIB[1:] / "os.py").exists()
    assert not Path(cache_from_source(str(shop.tree / STDLIB[1:] / "os.py"))).exists()


def test_the_runtime_is_bytecode_beside_the_tree(shop: Workshop) -> None:
    """/sandbox: sourceless modules, the native one, the policy as it is, and what the runtime must know."""
    shop.assemble(spec(runtime={"level": "any"}))
    sandbox = shop.image / "sandbox"
    assert sorted(str(path.relative_to(sandbox)) for path in entries(sandbox)) == [
        "entrypoint.pyc",
        "policy.bpf",
        "runtime",
        "runtime.json",
        "runtime/__init__.pyc",
        "runtime/_syscall.abi3.so",
        "runtime/jail.pyc",
    ]
    assert load(sandbox / "entrypoint.pyc").co_filename == "/sandbox/entrypoint.py"
    assert load(sandbox / "runtime/jail.pyc").co_filename == "/sandbox/runtime/jail.py"
    assert (sandbox / "policy.bpf").read_bytes() == shop.policy.read_bytes()
    facts = json.loads((sandbox / "runtime.json").read_text())
    assert facts["level"] == "any"
    assert facts["python"] == f"/usr/bin/{PYTHON}"
    assert facts["sys_path"][1] == STDLIB
    command = [sys.executable, "-I", "-S", str(sandbox / "entrypoint.pyc")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "entry\n"


def test_the_report_counts_what_is_there(shop: Workshop) -> None:
    """Files and bytes of the tree, links not counted."""
    report = shop.assemble()
    files = [path for path in entries(shop.tree) if path.is_file() and not path.is_symlink()]
    assert (report.files, report.bytes) == (len(files), sum(path.stat().st_size for path in files))
    assert (report.path, report.version, report.stdlib) == (f"/usr/bin/{PYTHON}", VERSION, STDLIB)


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
    assert (shop.out / "report.json").read_text() == (second / "report.json").read_text()


def run_bundle(shop: Workshop, *through: str, **changes: Path) -> subprocess.CompletedProcess[str]:
    """Runs the bundled assembler , with no package on its path, by way of another program if need be."""
    arguments = {
        "root": shop.root.directory,
        "spec": shop.folder / "spec.json",
        "runtime": shop.runtime,
        "policy": shop.policy,
        "out": shop.out,
    } | changes
    options = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    command = [*through, sys.executable, "-I", "-S", "-B", str(shop.folder / "assembler"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_the_bundle_is_the_same_each_time_and_has_sources_alone(tmp_path: Path) -> None:
    """The assembler's folder in a context depends on nothing but the installed versions."""
    write_bundle(tmp_path / "one")
    write_bundle(tmp_path / "two")
    contents = [{k: v[2] for k, v in shape(tmp_path / name).items()} for name in ("one", "two")]
    assert contents[0] == contents[1]
    assert {path.suffix for path in entries(tmp_path / "one") if path.is_file()} == {".py"}
    assert "elftools/elf/elffile.py" in contents[0]


def test_the_program_narrates_on_stdout_and_fails_on_stderr(shop: Workshop) -> None:
    """`progress:` and `warning:` lines; `error:` and `hint:` lines, exit code 2 for what the config lists."""
    write_bundle(shop.folder / "assembler")
    shop.root.symlink(f"{STDLIB}/gone", "/nowhere")
    (shop.folder / "spec.json").write_text(spec().to_json())
    done = run_bundle(shop)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1].startswith(f"warning: left out the link {STDLIB}/gone")
    assert {line.split()[0] for line in lines} == {"progress:", "warning:"}

    (shop.folder / "spec.json").write_text(spec(python_lib_path=("/nix", "/nux")).to_json())
    failed = run_bundle(shop, out=shop.folder / "failed")
    assert failed.returncode == 2
    assert [line.split(": ")[0] for line in failed.stderr.splitlines()] == ["error", "hint", "error", "hint"]
    assert not (shop.folder / "failed").exists()

    (shop.folder / "spec.json").write_text(spec().to_json())
    again = run_bundle(shop)
    assert (again.returncode, again.stderr.splitlines()[0]) == (1, f"error: {shop.out} exists already")


def test_another_version_of_python_is_refused(shop: Workshop) -> None:
    """Bytecode is of one version: the assembler says which two do not fit, and writes nothing."""
    shop.root.host(STDLIB).rename(shop.root.host("/usr/lib/python3.99"))
    with pytest.raises(BuildError, match=rf"Python 3\.99 .* cannot be compiled by Python {VERSION}"):
        shop.assemble(spec(python_path="/usr/bin/python"), out=named(shop, "python"))
    assert not list(shop.folder.glob("out*"))


def named(shop: Workshop, name: str) -> Path:
    """Gives the interpreter a name without a version; returns the folder to assemble into."""
    shop.root.host(f"/usr/bin/{PYTHON}").rename(shop.root.host(f"/usr/bin/{name}"))
    return shop.out


def broken_runtime(shop: Workshop) -> None:
    (shop.runtime / "jail.py").write_text("def broken(:\n")


def no_native_module(shop: Workshop) -> None:
    (shop.runtime / "_syscall.abi3.so").unlink()


def no_policy(shop: Workshop) -> None:
    shop.policy.unlink()


def folder_is_a_file(shop: Workshop) -> None:
    (shop.folder / "file").write_text("")
    shop.out = shop.folder / "file" / "out"


@pytest.mark.parametrize("breaks", [broken_runtime, no_native_module, no_policy, folder_is_a_file])
def test_after_a_failure_nothing_is_there(shop: Workshop, breaks: Callable[[Workshop], None]) -> None:
    """Each failure is a BuildError that names a file, and neither the folder nor a half of it remains."""
    breaks(shop)
    before = sorted(shop.folder.iterdir())
    with pytest.raises(BuildError, match=str(shop.folder)):
        shop.assemble()
    assert sorted(shop.folder.iterdir()) == before


def test_a_full_disk_is_an_error_and_leaves_nothing(shop: Workshop) -> None:
    """Writing past what the file system has (here: past RLIMIT_FSIZE) ends with one line, not a traceback."""
    shop.root.write(f"{STDLIB}/large.bin", bytes(3_000_000))
    (shop.folder / "spec.json").write_text(spec().to_json())
    write_bundle(shop.folder / "assembler")
    script = "ulimit -f 1000; trap '' XFSZ; exec \"$@\""
    ended = run_bundle(shop, "sh", "-c", script, "sh")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert "File too large" in ended.stderr
    assert not list(shop.folder.glob("out*"))


def test_an_interrupt_leaves_nothing(shop: Workshop) -> None:
    """Ctrl-C in the middle: the folder that was being filled is gone."""

    def interrupt(text: str) -> None:
        if text.startswith("compiling"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assemble(
            spec(),
            root=shop.root.directory,
            runtime=shop.runtime,
            policy=shop.policy,
            out=shop.out,
            progress=interrupt,
        )
    assert not list(shop.folder.glob("out*"))


def test_what_a_killed_assembly_left_does_not_matter(shop: Workshop) -> None:
    """A half-written folder of an earlier try is not taken over."""
    FakeRoot(shop.folder / "out.partial").write("/root/usr/stray")
    shop.assemble()
    assert not (shop.image / "usr/stray").exists()


def test_many_files_take_seconds(shop: Workshop) -> None:
    """20,000 files in one process, with progress; the time is a generous bound against a fork per file."""
    for number in range(200):
        folder = shop.root.host(f"{STDLIB}/site-packages/p{number}")
        folder.mkdir(parents=True)
        for file in range(100):
            (folder / f"{file}.dat").write_bytes(b"x" * 100)
    told: list[str] = []
    started = time.monotonic()
    assemble(
        spec(),
        root=shop.root.directory,
        runtime=shop.runtime,
        policy=shop.policy,
        out=shop.out,
        progress=told.append,
    )
    took_s = time.monotonic() - started
    assert sum(1 for _ in shop.tree.rglob("*.dat")) == 20_000
    assert sum(text.startswith("copying: ") for text in told) >= 40
    assert took_s < 20


def test_a_config_error_is_not_turned_into_another(shop: Workshop) -> None:
    """What config.yaml lists and the base lacks stays a ConfigError, exit code 2."""
    with pytest.raises(ConfigError):
        shop.assemble(spec(python_lib_path=("/none",)))
