"""Bytecode: which modules have it, what it says, and that it is the same wherever it is made."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from importlib.util import cache_from_source, source_hash
from pathlib import Path
from types import CodeType

import pytest

from builder.errors import BuildError
from builder.tree import write
from builder.tree.bytecode import Compiler
from builder.tree.spec import Rule
from tests.fakeroot import STDLIB, spec
from tests.workshop import Workshop, entries, load, shape


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


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


def test_what_was_compiled_is_taken_from_the_cache_unless_it_is_damaged(tmp_path: Path) -> None:
    """An entry serves the same source at the same path, and no other; one with a wrong byte is made anew."""
    cache = tmp_path / "cache"
    fresh = Compiler().compile(b"x = 1\n", "/a.py")
    assert Compiler(cache).compile(b"x = 1\n", "/a.py") == fresh
    (entry,) = [path for path in entries(cache) if path.is_file()]

    def put(code: bytes) -> None:
        entry.write_bytes(hashlib.sha256(code).digest() + code)

    put(b"of an earlier build")
    assert Compiler(cache).compile(b"x = 1\n", "/a.py") == b"of an earlier build"
    assert Compiler(cache).compile(b"x = 1\n", "/b.py") == Compiler().compile(b"x = 1\n", "/b.py")
    assert Compiler(cache).compile(b"x = 2\n", "/a.py") == Compiler().compile(b"x = 2\n", "/a.py")
    entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    assert Compiler(cache).compile(b"x = 1\n", "/a.py") == fresh
    entry.write_bytes(b"")
    assert Compiler(cache).compile(b"x = 1\n", "/a.py") == fresh
    assert entry.read_bytes()[32:] == fresh


def test_builds_whose_processes_have_the_same_number_share_a_cache(tmp_path: Path) -> None:
    """As the assemblers of two containers do, each of which is process 1: none is in the other's way."""
    program = (
        "import os, sys; from pathlib import Path; from builder.tree.bytecode import Compiler\n"
        "assert os.getpid() == 1\n"
        "for number in range(400):\n"
        "    assert Compiler(Path(sys.argv[1])).compile(b'x = %d' % number, '/m.py')\n"
    )
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", program, str(tmp_path / "cache")]
    for number in range(4):
        command[-1] = str(tmp_path / f"cache-{number}")
        both = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(2)]
        assert [one.wait(timeout=60) for one in both] == [0, 0]
        assert not list((tmp_path / f"cache-{number}").glob("*/.*"))


def test_what_is_not_python_is_not_in_the_cache(tmp_path: Path) -> None:
    """None, each time."""
    for _ in range(2):
        assert Compiler(tmp_path / "cache").compile(b"print 1", "/a.py") is None
    assert not (tmp_path / "cache").exists()


def test_many_modules_are_compiled_by_several_processes_to_the_same_tree(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared out or not, the same files; what fails in a child fails the assembly."""
    for number in range(30):
        shop.root.write(f"{STDLIB}/m{number}.py", f"x = {number}\n")
    shop.assemble()
    monkeypatch.setattr(write, "_WORTH_A_PROCESS", 7)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    shop.assemble(out=shop.folder / "shared")
    assert shape(shop.out / "root") == shape(shop.folder / "shared" / "root")

    parent = os.getpid()

    def full(_compiler: Compiler, _content: bytes, _jail_path: str) -> bytes:
        if os.getpid() != parent:
            raise OSError(errno.ENOSPC, "full")
        return b""

    monkeypatch.setattr(Compiler, "compile", full)
    shop.runtime = shop.folder / "empty"
    with pytest.raises(BuildError, match="No space left") as refused:
        shop.assemble(out=shop.folder / "failed")
    assert "make room" in (refused.value.hint or "")
    assert not (shop.folder / "failed").exists()
