"""Executing a program, by whatever name and call."""

import pytest

from tests.conftest import Place, Result
from tests.escape.attacks import Attack, judge, outcomes, program

PRINT = "'-I', '-S', '-c', 'print(\"replaced\")'"
MEMFD = """
program = os.memfd_create("program", 0)
with open(os.path.realpath(sys.executable), "rb") as source:
    os.sendfile(program, source.fileno(), 0, os.fstat(source.fileno()).st_size)
"""
ARGV = """
argv = (ctypes.c_char_p * 6)(b"python3", b"-I", b"-S", b"-c", b"print('replaced')", None)
"""

# Each of them would make another program of the process that runs it.
REPLACING = {
    "execve": f"os.execv(sys.executable, ['python3', {PRINT}])",
    "the loader": f"""
loaders = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
loader = next(path for path in loaders if os.path.exists(path))
os.execv(loader, [loader, os.path.realpath(sys.executable), {PRINT}])
""",
    "fexecve": f"os.execve(os.open(sys.executable, os.O_RDONLY), ['python3', {PRINT}], {{}})",
    "execveat": ARGV + 'call("execveat", -100, os.fsencode(sys.executable), argv, 0, 0)',
    "memfd, execveat": MEMFD + ARGV + 'call("execveat", program, b"", argv, 0, 0x1000)',  # AT_EMPTY_PATH
    "memfd, fexecve": MEMFD + f"os.execve(program, ['python3', {PRINT}], {{}})",
}


@pytest.mark.parametrize("name", REPLACING)
def test_outside_the_process_becomes_another_program(name: str, mounted: Place) -> None:
    """The control: each way works, for root with a /proc."""
    assert mounted.run(program({name: REPLACING[name]})) == Result(0, "replaced\n", "")


def test_the_process_stays_what_it_is(jail: Place) -> None:
    """EPERM for each way; the file in memory, which no scratch folder limits, is not even made."""
    assert outcomes(jail, REPLACING) == dict.fromkeys(REPLACING, "EPERM")


# The image has no shell: the control starts a child that finds none.
STARTING = {
    "subprocess": Attack(
        "import subprocess; subprocess.run([sys.executable, '-I', '-S', '-c', 'pass'], check=True)",
        "OK",
        "EPERM",
    ),
    "posix_spawn": Attack(
        "os.waitpid(os.posix_spawn(sys.executable, ['python3', '-S', '-c', 'pass'], {}), 0)", "OK", "EPERM"
    ),
    "os.popen": Attack("os.popen('true').close()", "ENOENT", "EPERM"),
    "a program that is not there": Attack("os.execv('/nonexistent', ['x'])", "ENOENT", "EPERM"),
    "execve of nothing": Attack('call("execve", 0, 0, 0)', "EFAULT", "EPERM"),
    "execveat of nothing": Attack('call("execveat", -1, 0, 0, 0, 0)', "EFAULT", "EPERM"),
}


def test_no_program_is_started(mounted: Place, jail: Place, where: str) -> None:
    """EPERM for each of the standard library's ways, before a path is looked at."""
    judge(STARTING, mounted, jail, where)
