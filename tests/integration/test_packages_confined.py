"""The place in which packages are built from source: what this machine keeps from it, and what it may use."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.errors import BuildError
from builder.packages import confine, source
from builder.packages.confine import NotConfined, run_confined
from builder.progress import Progress
from tests.conftest import REPOSITORY
from tests.integration.test_packages_source import (
    QUIET,
    Workshop,
    found_by,
    locking,
    own_backend,
    shelf,
    workshop,
)

__all__ = ["shelf", "workshop"]  # fixtures

_SESSION_KEYRING = -3
_ADD_KEY = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
_KEYCTL = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
KEEP = "open('{name}.py', 'w').write('FOUND = ' + repr(json.dumps(found)))\n"
SEARCH = f"""
import ctypes, json
libc = ctypes.CDLL(None)
found = libc.syscall({_KEYCTL}, 10, {_SESSION_KEYRING}, b"user", b"sandbox-test", 0)
"""


def found_in(workshop: Workshop, name: str) -> Any:
    """What the build of a package found."""
    return found_by(workshop.open(workshop.lock(name)), name)


@pytest.fixture
def planted() -> Iterator[Path]:
    """What any user can have at the path that is the build's own in there: programs that leave a mark."""
    folder = Path(confine.GIVEN)
    assert not folder.exists(), f"{folder} is there already"
    programs = folder / "tools" / "bin"
    programs.mkdir(parents=True)
    mark = folder / "mark"
    for name in ("setpriv", "unshare", "setsid", "sh", "mount", "mkdir", "prlimit", "env", "chroot"):
        program = programs / name
        program.write_text(f'#!/bin/sh\necho {name} >> {mark}\nPATH=/usr/sbin:/usr/bin exec {name} "$@"\n')
        program.chmod(0o755)
    try:
        yield mark
    finally:
        shutil.rmtree(folder)


def test_no_program_of_another_user_runs(workshop: Workshop, planted: Path) -> None:
    """Nothing on this side is looked up where the build has its tools; in there they are first."""
    names = f"import json, os\nfound = [os.environ['PATH'], sorted(os.environ)]\n{KEEP.format(name='where')}"
    workshop.setup_py("where", before=names)
    path, environment = found_in(workshop, "where")
    assert not planted.exists(), planted.read_text()
    assert path.startswith(f"{confine.GIVEN}/tools/bin:")
    assert not {"PWD", "OLDPWD", "_", "SHLVL"} & set(environment)


def test_the_session_keyring_stays_here(workshop: Workshop) -> None:
    """A key that any process of the session can read, as the control shows."""
    libc = ctypes.CDLL(None)
    # A session of our own: the key must not outlive it.
    libc.syscall(_KEYCTL, 1, None)
    key = libc.syscall(_ADD_KEY, b"user", b"sandbox-test", b"s3cret", 6, _SESSION_KEYRING)
    assert key > 0, "no key can be made on this machine"
    outside = subprocess.run([sys.executable, "-c", f"{SEARCH}print(found)"], capture_output=True, check=True)
    assert int(outside.stdout) > 0
    workshop.setup_py("keys", before=SEARCH + KEEP.format(name="keys"))
    assert found_in(workshop, "keys") == -1


def test_a_build_that_prints_without_end(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended soon, with lines or without."""
    monkeypatch.setattr(confine, "_SAID_BYTES", 8 << 20)
    for name, end in (("lines", "x"), ("line", "")):
        workshop.setup_py(name, before=f"import sys\nwhile True: sys.stdout.write('x' * 65536 + {end!r})\n")
        assert "it printed more than 8 MiB" in workshop.refusal(name).message


def test_memory_and_processes_are_limited(workshop: Workshop) -> None:
    """As root's build and as a user's: five gigabytes are no process's, and there is an end of forks."""
    before = (
        "import json, mmap, resource\n"
        "def attempt(size):\n"
        "    try:\n        mmap.mmap(-1, size).close()\n        return True\n"
        "    except OSError:\n        return False\n"
        "found = [attempt(1 << 30), attempt(5 << 30), resource.getrlimit(resource.RLIMIT_NPROC)[1]]\n"
    )
    workshop.setup_py("greedy", before=before + KEEP.format(name="greedy"))
    assert found_in(workshop, "greedy") == [True, False, 1024]


def test_a_build_that_stops_its_process_group_is_ended(workshop: Workshop) -> None:
    """By an ordinary user, whose own processes outside would be of that group."""
    workshop.setup_py("stops", before="import os, signal, time\nos.kill(0, signal.SIGSTOP)\ntime.sleep(987)")
    places = (str(workshop.folder), str(workshop.cache))
    code = f"from tests.integration.test_packages_confined import stopped; stopped(*{places!r})"
    user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    subprocess.run([*user, sys.executable, "-c", code], check=True, timeout=60)


def stopped(folder: str, cache: str) -> None:
    source.TIMEOUT_S = 2
    with pytest.raises(BuildError, match="it took longer than 2 s"):
        locking(folder, cache, "stops")


def test_the_place_of_an_ordinary_user(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is one outside of any namespace, too."""
    roots = []

    def spy(root: Path, *arguments: Any, **options: Any) -> None:
        roots.append(root)
        run_confined(root, *arguments, **options)

    monkeypatch.setattr(source, "run_confined", spy)
    workshop.setup_py("filled")
    workshop.lock("filled")
    code = "from tests.integration.test_packages_confined import by_user; by_user('/mnt')"
    # The interpreter that runs us may lie in a folder of root's.
    capability = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", *capability]
    user += [sys.executable, "-c", code]
    script = 'mount --bind "$0" /mnt && exec "$@"'
    subprocess.run(["unshare", "--mount", "sh", "-c", script, roots[0], *user], check=True, cwd=REPOSITORY)


def by_user(root: str) -> None:
    """Runs a program in the place, and one that fails."""
    import tempfile

    assert os.geteuid() == 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in" / "tools").mkdir(parents=True)

        def confined(code: str) -> str:
            run_confined(
                Path(root),
                ["/usr/bin/python3.13", "-c", code],
                given=folder / "in",
                tools=folder / "in" / "tools",
                output=folder / "out",
                env={},
                timeout_s=60,
                progress=Progress(quiet=True),
            )
            return (folder / "out").read_text()

        code = "import json, os; json.dump([os.getuid(), sorted(os.listdir('/dev'))], open('/tmp/out', 'w'))"
        assert json.loads(confined(code)) == [65534, ["full", "null", "random", "urandom", "zero"]]
        with pytest.raises(BuildError, match=r"it failed\n  < broken$"):
            confined("raise SystemExit('broken')")


def test_a_machine_that_cannot_confine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said so, whatever the last line of a program of this machine is."""
    monkeypatch.setattr(confine, "_ENTER", "echo 'mount: no'; echo '   dmesg(1) may have more'; exit 32")
    with pytest.raises(NotConfined, match="cannot be confined on this machine\n  < mount: no") as caught:
        run_confined(
            tmp_path,
            ["/bin/true"],
            given=tmp_path,
            tools=tmp_path,
            output=tmp_path / "out",
            env={},
            timeout_s=60,
            progress=QUIET,
        )
    assert "sandbox-build doctor" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        ("open(folder + '/' + name, 'w').write('no zip')", "it is no whole wheel"),
        ("open(folder + '/' + name, 'w').truncate(9 << 20)", "what its build made is too large"),
    ],
)
def test_a_build_that_makes_no_wheel(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, write: str, message: str
) -> None:
    """The error has the package's name, and nothing of any size is read into memory."""
    monkeypatch.setattr(source, "FILE_BYTES", 8 << 20)
    own_backend(workshop, "own", f"\n    name = 'own-1.0-py3-none-any.whl'\n    {write}\n    return name\n")
    error = workshop.refusal("own")
    assert message in error.message
    assert "own" in error.message


def test_what_is_installed_is_named_by_its_wheels(workshop: Workshop) -> None:
    """A build may come to another wheel than the locked one; its image is then another, too."""
    noise = "import uuid\nopen('noise.py', 'w').write(f'HERE = {uuid.uuid4().hex!r}')\n"
    workshop.setup_py("noise", before=noise)
    made = workshop.lock("noise")
    first = workshop.open(made)
    for name in ("built", "packages", "wheels"):
        shutil.rmtree(workshop.cache / name)
    second = workshop.open(made)
    assert first.directory == second.directory
    assert first.identity != second.identity
    assert workshop.open(made).identity == second.identity
