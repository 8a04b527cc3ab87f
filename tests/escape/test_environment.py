"""The container's environment variables: a platform's secrets are often there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.conftest import Container, Place
from tests.escape.attacks import Attack, judge, outcomes

HALVES = ("open-sesame-", "7f2c9a41")
"""The secret: it never stands whole in the program that looks for it, which would find itself."""
SECRET = "".join(HALVES)
# Of many lengths, for what is freed is used again: the next object of the same size would hide a trace.
VARIABLES = {f"SECRET_{length}": "x" * length + SECRET for length in range(0, 2000, 50)} | {
    "LD_LIBRARY_PATH": f"/{SECRET}",
    "TZ": "Antarctica/Troll",
}


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables are there for what runs on this machine."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def outside_with_secrets(outside: Place, secrets: None) -> Place:  # noqa: ARG001 - sets the variables
    """The control: the plain interpreter gets the variables."""
    return outside


@pytest.fixture
def jail_with_secrets(jail: Place, secrets: None) -> Place:  # noqa: ARG001 - sets the variables
    """The variables are there for the runtime in the jail."""
    if isinstance(jail, Container):
        variables = (f"--env={name}={value}" for name, value in VARIABLES.items())
        return replace(jail, options=(*jail.options, *variables))
    return jail


# write(2) says EFAULT where nothing is mapped: a pipe is a way to look at any address and live.
SCAN = f"""
import gc
reader, writer = os.pipe()
first, second = {HALVES[0].encode()!r}, {HALVES[1].encode()!r}

def holds(pages):
    memory = b""
    for page in pages:
        if libc.write(writer, ctypes.c_void_p(page << 12), 4096) != 4096:
            break
        memory = os.read(reader, 4096) + memory if pages.step < 0 else memory + os.read(reader, 4096)
    at = memory.find(first)
    while at >= 0 and not memory.startswith(second, at + len(first)):
        at = memory.find(first, at + 1)
    return at >= 0
"""
STACK = """
page = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "__libc_stack_end").value >> 12
found = holds(range(page, page + 1000, 1))
"""
HEAP = """
libc.sbrk.restype = ctypes.c_void_p
page = libc.sbrk(0) - 1 >> 12
found = holds(range(page, page - 1000, -1))
"""
OBJECTS = """
arenas = {id(thing) >> 20 for thing in gc.get_objects()}
found = any([holds(range(arena << 8, (arena + 1) << 8, 1)) for arena in arenas])
"""

ATTACKS = {
    "os.environ": Attack("found = [name for name in os.environ if 'SECRET' in name] != []", "True", "False"),
    "posix.environ": Attack("import posix; found = b'SECRET_0' in posix.environ", "True", "False"),
    "getenv": Attack(
        "libc.getenv.restype = ctypes.c_char_p; found = libc.getenv(b'SECRET_0') is None", "False", "True"
    ),
    "environ": Attack(
        "start = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ'); names = []\n"
        "while start[len(names)]: names.append(start[len(names)])\n"
        "found = any(name.startswith(b'SECRET') for name in names)",
        *("True", "False"),
    ),
    "the stack": Attack(SCAN + STACK, "True", "False"),
    "the heap": Attack(SCAN + HEAP, "True", "False"),
    "memory of the interpreter's objects": Attack(SCAN + OBJECTS, "True", "False"),
}


def test_no_variable_of_the_container_is_left(
    outside_with_secrets: Place, jail_with_secrets: Place, where: str
) -> None:
    """Not for Python code, not for C code, and not for machine code that looks through the whole memory."""
    judge(ATTACKS, outside_with_secrets, jail_with_secrets, where)


def test_the_environment_is_the_configs(jail_with_secrets: Place) -> None:
    """What jail.env says, what jail.env_keep lets through, and the scratch folder: nothing else."""
    names = "found = sorted(set(os.environ) - {'TMPDIR', 'MPLCONFIGDIR'}), os.environ['TZ']"
    assert outcomes(jail_with_secrets, {"names": names}) == {
        "names": "(['HOME', 'LANG', 'PATH', 'TZ'], 'Antarctica/Troll')"
    }
