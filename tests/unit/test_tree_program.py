"""The assembler as a program, and that nothing is there after a failure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import BuildError, ConfigError, MissingLibrary
from builder.tree.assemble import assemble
from builder.tree.bundle import write_bundle
from tests.fakeroot import PYTHON, STDLIB, VERSION, FakeRoot, elf, spec
from tests.workshop import Workshop, entries, run_bundle, shape


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_the_bundle_is_the_same_each_time_and_has_sources_alone(tmp_path: Path) -> None:
    """The assembler's folder in a context depends on nothing but the installed versions."""
    write_bundle(tmp_path / "one")
    write_bundle(tmp_path / "two")
    contents = [{k: v[2] for k, v in shape(tmp_path / name).items()} for name in ("one", "two")]
    assert contents[0] == contents[1]
    assert {path.suffix for path in entries(tmp_path / "one") if path.is_file()} == {".py"}
    assert "builder/tree/elf.py" in contents[0]


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


def test_a_name_that_looks_like_our_lines_is_none(shop: Workshop) -> None:
    """A library's and a file's name with newlines and a terminal's sequences stay inside one line of ours."""
    write_bundle(shop.folder / "assembler")
    forged = "lib\nhint: do evil\nmissing: {}\n\x1b]0;x\x07.so"
    shop.root.write(f"{STDLIB}/lib-dynload/a.so", elf(needed=[forged]))
    shop.root.symlink(f"{STDLIB}/a\nerror: b", "/nowhere")
    (shop.folder / "spec.json").write_text(spec().to_json())
    done = run_bundle(shop)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("missing: {")
    assert json.loads(line.removeprefix("missing: "))["soname"] == forged
    assert str(MissingLibrary(forged, ("/a",))).isprintable()

    shop.root.host(f"{STDLIB}/lib-dynload/a.so").unlink()
    done = run_bundle(shop)
    assert done.returncode == 0
    assert {text.split(":")[0] for text in done.stdout.splitlines()} == {"progress", "warning"}
    assert "\\nerror: b" in done.stdout


def test_our_own_files_are_never_written_through_a_link(shop: Workshop) -> None:
    """A base whose file leads to a package does not change that package in the cache."""
    packages = shop.folder / "packages"
    packages.mkdir()
    (packages / "good.py").write_text("x = 1\n")
    (packages / "good.py").chmod(0o644)
    shop.root.write(f"{STDLIB}/ctypes/__init__.py", "")
    shop.root.symlink(f"{STDLIB}/ctypes/util.py", "/packages/good.py")
    added = {"{stdlib}/ctypes/util.py": "y = 2\n"}
    assemble(
        spec(added=added),
        root=shop.root.directory,
        runtime=shop.runtime,
        policy=shop.policy,
        out=shop.out,
        packages=packages,
    )
    assert (shop.tree / "packages/good.py").exists()
    assert (packages / "good.py").read_text() == "x = 1\n"
