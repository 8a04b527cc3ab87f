"""A Python installation is found by its files alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.arch import ARCHES
from builder.errors import BuildError, ConfigError
from builder.tree.interpreter import Interpreter, find_interpreter
from tests.fakeroot import ARCH, PYTHON, STDLIB, FakeRoot, elf, python_root

PROGRAM = elf(interpreter=ARCH.loader)


def find(root: FakeRoot, python_path: str) -> Interpreter:
    return find_interpreter(root, python_path, ARCH, "the base")


def problem(root: FakeRoot, python_path: str) -> tuple[str, str | None]:
    with pytest.raises(ConfigError) as failure:
        find(root, python_path)
    assert failure.value.exit_code == 2
    ((message, hint),) = failure.value.problems
    return message, hint


@pytest.fixture
def empty(tmp_path: Path) -> FakeRoot:
    """A root with nothing in it."""
    return FakeRoot(tmp_path)


@pytest.mark.parametrize("python_path", [f"/usr/bin/{PYTHON}", "/usr/bin/python3", "/bin/python3"])
def test_links_lead_to_the_same_installation(tmp_path: Path, python_path: str) -> None:
    """A link to the interpreter and a path through a linked folder give what the real path gives."""
    found = find(python_root(tmp_path), python_path)
    assert (found.path, found.stdlib, found.loader) == (f"/usr/bin/{PYTHON}", STDLIB, ARCH.loader)
    assert found.dynload == f"{STDLIB}/lib-dynload"
    assert found.zip == f"/usr/lib/{PYTHON.replace('.', '')}.zip"


def test_debian_packages_come_from_both_of_its_folders(empty: FakeRoot) -> None:
    """Below /usr: what pip installed, then what Debian packaged; folders that are not there are not named."""
    empty.write("/usr/bin/python3.13", PROGRAM)
    empty.write("/usr/lib/python3.13/os.py")
    empty.write("/usr/lib/python3/dist-packages/yaml.py")
    assert find(empty, "/usr/bin/python3.13").site == ("/usr/lib/python3/dist-packages",)
    empty.write("/usr/local/lib/python3.13/dist-packages/mine.py")
    assert find(empty, "/usr/bin/python3.13").site == (
        "/usr/local/lib/python3.13/dist-packages",
        "/usr/lib/python3/dist-packages",
    )


def test_two_installations_in_one_base_stay_apart(empty: FakeRoot) -> None:
    """/usr/local's interpreter has its own library and site-packages, and nothing of Debian's."""
    empty.write("/usr/bin/python3.11", PROGRAM)
    empty.write("/usr/lib/python3.11/os.py")
    empty.write("/usr/lib/python3/dist-packages/debian.py")
    empty.write("/usr/local/bin/python3.13", PROGRAM)
    empty.symlink("/usr/local/bin/python3", "python3.13")
    empty.write("/usr/local/lib/python3.13/os.py")
    empty.write("/usr/local/lib/python3.13/site-packages/mine.py")
    found = find(empty, "/usr/local/bin/python3")
    assert (found.stdlib, found.version) == ("/usr/local/lib/python3.13", (3, 13))
    assert found.site == ("/usr/local/lib/python3.13/site-packages",)


@pytest.mark.parametrize("library", ["lib", "lib64"])
def test_a_prefix_anywhere(empty: FakeRoot, library: str) -> None:
    """Conda, pyenv and Fedora's lib64: the library is found from the executable, wherever both lie."""
    empty.write("/opt/conda/bin/python3.12", PROGRAM)
    empty.write(f"/opt/conda/{library}/python3.12/os.py")
    empty.write(f"/opt/conda/{library}/python3.12/site-packages/x.py")
    found = find(empty, "/opt/conda/bin/python3.12")
    assert found.stdlib == f"/opt/conda/{library}/python3.12"
    assert found.site == (f"/opt/conda/{library}/python3.12/site-packages",)
    assert found.zip == f"/opt/conda/{library}/python312.zip"


def test_the_name_of_the_program_chooses_between_two_libraries(empty: FakeRoot) -> None:
    """python3.12 beside 3.11 is 3.12; a program of no version there may be either, which is an error."""
    for version in ("3.11", "3.12"):
        empty.write(f"/usr/lib/python{version}/os.py")
    empty.write("/usr/bin/python3.12", PROGRAM)
    empty.write("/usr/bin/python", PROGRAM)
    assert find(empty, "/usr/bin/python3.12").version == (3, 12)
    with pytest.raises(BuildError, match=r"/usr/lib/python3\.11, /usr/lib/python3\.12"):
        find(empty, "/usr/bin/python")


def test_a_library_without_its_landmark_does_not_count(empty: FakeRoot) -> None:
    """A folder of packages that is left of another version is no standard library: it has no os.py."""
    empty.write("/usr/lib/python3.11/site-packages/left.py")
    empty.write("/usr/lib/python3.12/os.py")
    empty.write("/usr/bin/python", PROGRAM)
    assert find(empty, "/usr/bin/python").version == (3, 12)


def test_no_standard_library_is_an_error_that_says_what_was_looked_for(empty: FakeRoot) -> None:
    """An interpreter alone cannot start."""
    empty.write("/usr/bin/python3.13", PROGRAM)
    with pytest.raises(BuildError, match=r"lib/python3\.13/os\.py"):
        find(empty, "/usr/bin/python3.13")


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("shared", ["true", "false"])
def test_a_virtual_environment_has_the_library_of_its_home(
    empty: FakeRoot, shared: str, copied: bool
) -> None:
    """pyvenv.cfg names the home, for a linked and a copied executable; the packages are the environment's."""
    empty.write("/usr/bin/python3.13", PROGRAM)
    empty.write("/usr/lib/python3.13/os.py")
    empty.write("/usr/lib/python3/dist-packages/debian.py")
    empty.write("/venv/lib/python3.13/site-packages/mine.py")
    empty.write("/venv/pyvenv.cfg", f"home = /usr/bin\nInclude-System-Site-Packages = {shared}\n")
    if copied:
        empty.write("/venv/bin/python", PROGRAM)
    else:
        empty.symlink("/venv/bin/python", "/usr/bin/python3.13")
    found = find(empty, "/venv/bin/python")
    own, debian = "/venv/lib/python3.13/site-packages", "/usr/lib/python3/dist-packages"
    assert found.site == ((own, debian) if shared == "true" else (own,))
    # Run by its own name: only there is pyvenv.cfg found.
    assert (found.path, found.venv_config) == ("/venv/bin/python", "/venv/pyvenv.cfg")
    assert found.stdlib == "/usr/lib/python3.13"


def test_a_virtual_environment_without_a_home_is_an_error(empty: FakeRoot) -> None:
    """A pyvenv.cfg that names nothing does not lead to some other library."""
    empty.write("/venv/bin/python", PROGRAM)
    empty.write("/venv/pyvenv.cfg", "version = 3.13\n")
    with pytest.raises(BuildError, match=r"/venv/pyvenv\.cfg .* names no home"):
        find(empty, "/venv/bin/python")


def test_a_missing_interpreter_names_those_that_are_there(tmp_path: Path) -> None:
    """The hint has the base's interpreters, wherever they are."""
    message, hint = problem(python_root(tmp_path), "/usr/local/bin/python3")
    assert message == "python_path: /usr/local/bin/python3 is not in the base"
    assert hint == f"the base has /usr/bin/{PYTHON}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'#!/bin/sh\nexec python3 "$@"\n', "is a script, not the interpreter itself"),
        (b"MZ", "is not an ELF program"),
        (b"", "is not an ELF program"),
        (PROGRAM[:80], "is a damaged program"),
        (elf(), "names no dynamic loader"),
        (elf(machine="EM_386", interpreter="/lib/ld-linux.so.2"), f"EM_386, not for {ARCH.name}"),
    ],
)
def test_what_is_no_interpreter_is_refused(empty: FakeRoot, content: bytes, said: str) -> None:
    """A wrapper, a text, a damaged or static program and one of another machine are told apart."""
    empty.write("/usr/bin/python3", content)
    message, _ = problem(empty, "/usr/bin/python3")
    assert said in message


def test_a_folder_and_a_circle_are_refused(empty: FakeRoot) -> None:
    """Neither is read as a program."""
    empty.write("/usr/bin/python3/x")
    empty.symlink("/loop", "loop")
    assert problem(empty, "/usr/bin/python3")[0] == "python_path: /usr/bin/python3 in the base is not a file"
    assert "Too many levels of symbolic links" in problem(empty, "/loop")[0]


def test_an_interpreter_of_the_other_architecture_is_read_as_well(empty: FakeRoot) -> None:
    """Nothing depends on what this machine can run."""
    for arch in ARCHES.values():
        program = elf(machine=arch.elf_machine, interpreter=arch.loader)
        empty.write(f"/{arch.name}/bin/python3.13", program)
        empty.write(f"/{arch.name}/lib/python3.13/os.py")
        found = find_interpreter(empty, f"/{arch.name}/bin/python3.13", arch, "the base")
        assert found.loader == arch.loader
