"""The kernel's other numberings of calls, which a filter of this architecture's numbers would misread."""

import pytest

from builder.arch import host_arch
from tests.conftest import Place
from tests.escape.attacks import Attack, judge_control, judge_killed

MACHINE_CODE = """
import mmap
memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(bytes.fromhex({code!r}))
enter = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
found = -enter() in (0, 38, -os.getpid())  # ENOSYS where the kernel has no such ABI
"""

X32 = """
call.__globals__["numbers"]["getpid of x32"] = 0x4000_0000 | 39
call("getpid of x32")
"""

EVERYWHERE = {
    # A number with this bit is one of amd64's x32 ABI, and none of arm64's.
    "x32": Attack(X32, "ENOSYS", "SIGSYS"),
}
OF_AMD64 = {
    # mov eax, 20 (getpid of i386); int 0x80; ret
    "int 0x80": Attack(MACHINE_CODE.format(code="b814000000cd80c3"), "True", "SIGSYS"),
}
ATTACKS = EVERYWHERE | (OF_AMD64 if host_arch().name == "amd64" else {})


def test_the_kernel_would_answer(outside: Place) -> None:
    """The control: outside, each way into the kernel comes back."""
    judge_control(ATTACKS, outside)


@pytest.mark.parametrize("name", ATTACKS)
def test_another_abi_ends_the_run(name: str, jail: Place) -> None:
    """SIGSYS for the whole run."""
    judge_killed(ATTACKS[name], jail)
