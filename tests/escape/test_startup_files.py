"""Code that a package brings along, and that Python would run before the lock-down."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import interpreter
from tests.escape.conftest import Entrypoint

EVIL = "import posix; posix.write(2, b'EVIL {name}\\n')\n"
SHADOWS = (
    "_json",
    "ctypes",
    "encodings",
    "json",
    "os",
    "posixpath",
    "runtime",
    "seccomp",
    "site",
    "_syscall",
)
HARMLESS = "import ctypes, json, os, sys; print(ctypes.__file__, json.__file__, os.__file__)"


@pytest.fixture
def packages(entrypoint: Entrypoint) -> str:
    """A folder of packages, last on the jail's sys.path, full of modules that run by merely being there."""
    library = Path(entrypoint.settings["sys_path"][1])
    packages = library.parent / "evil-packages"
    folder = entrypoint.tree / str(packages).lstrip("/")
    folder.mkdir()
    for name in (*SHADOWS, "sitecustomize", "usercustomize"):
        (folder / f"{name}.py").write_text(EVIL.format(name=name))
    (folder / "evil.pth").write_text(EVIL.format(name="pth"))
    entrypoint.set(sys_path=[*entrypoint.settings["sys_path"], str(packages)])
    return str(packages)


def plain(entrypoint: Entrypoint, *arguments: str, **environment: str) -> str:
    """What the interpreter says on stderr when it is started with no care."""
    command = ["chroot", str(entrypoint.root), *interpreter(entrypoint.root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    return done.stderr


def test_no_start_up_file_is_run(entrypoint: Entrypoint, packages: str) -> None:
    """.pth, sitecustomize, usercustomize: the plain interpreter runs them; neither runtime nor run does."""
    site = f"import site; site.addsitedir({packages!r}); site.execsitecustomize(); site.execusercustomize()"
    control = plain(entrypoint, "-I", "-c", f"import sys; sys.path.append({packages!r}); {site}")
    assert control == "EVIL pth\nEVIL sitecustomize\nEVIL usercustomize\n"
    ended = entrypoint.run("print('ran')")
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "ran\n", "")


def test_no_module_of_a_package_stands_for_one_of_the_standard_librarys(
    entrypoint: Entrypoint, packages: str
) -> None:
    """A ctypes.py among the packages: first on the path it runs; here neither runtime nor code imports it."""
    assert "EVIL ctypes" in plain(
        entrypoint, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {packages!r}); {HARMLESS}"
    )
    ended = entrypoint.run(HARMLESS)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert packages not in ended.stdout


def test_what_a_package_brings_runs_under_the_lockdown(entrypoint: Entrypoint, packages: str) -> None:
    """Even first on the configured path it is imported when the code asks for it, after the last step."""
    entrypoint.set(sys_path=[packages, *entrypoint.settings["sys_path"]])
    module = entrypoint.tree / packages.lstrip("/") / "json.py"
    module.write_text("import posix\ntry:\n posix.setuid(0)\nexcept OSError as error:\n print(error.errno)\n")
    ended = entrypoint.run("print('first')\nimport json")
    assert (ended.exit_code, ended.stdout) == (0, "first\n1\n")
    assert ended.stderr.startswith("sandbox: denied setuid (")


VARIABLES = {
    "PYTHONPATH": "{packages}",
    "PYTHONSTARTUP": "{packages}/evil.pth",
    "PYTHONINSPECT": "1",
    "PYTHONBREAKPOINT": "os.abort",
    "PYTHONVERBOSE": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONHOME": "/nonexistent",
    "PYTHONPLATLIBDIR": "nonexistent",
    "PYTHONPYCACHEPREFIX": "/tmp",
    "PYTHONTRACEMALLOC": "1",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONDEVMODE": "1",
}
FLAGS = """
import sys
print(sys.flags, sys.warnoptions, sys.pycache_prefix, sys.prefix, sys.path)
import json
"""


def test_no_variable_of_the_container_configures_the_interpreter(
    entrypoint: Entrypoint, packages: str
) -> None:
    """PYTHON* variables: the plain interpreter obeys; the run is what it is without them."""
    variables = {name: value.format(packages=packages) for name, value in VARIABLES.items()}
    assert "EVIL encodings" in plain(entrypoint, "-S", "-c", "pass", PYTHONPATH=packages)
    assert "Fatal Python error" in plain(entrypoint, "-S", "-c", "pass", PYTHONHOME="/nonexistent")
    without = entrypoint.start("-c", FLAGS)
    assert without.exit_code == 0
    assert entrypoint.start("-c", FLAGS, env=variables) == without


def test_no_file_of_the_working_folder_is_imported(entrypoint: Entrypoint, packages: str) -> None:
    """A container's --workdir full of modules: they shadow the standard library's without the runtime."""
    in_packages = replace(entrypoint, before_exec=lambda: os.chdir(packages))
    control = ["chroot", str(entrypoint.root), *interpreter(entrypoint.root), "-S", "-c"]
    change = f"import os, sys; os.chdir({packages!r}); import json"
    assert "EVIL json" in subprocess.run([*control, change], capture_output=True, text=True).stderr
    ended = in_packages.run("import json, os; print(os.getcwd())")
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "/\n", "")
