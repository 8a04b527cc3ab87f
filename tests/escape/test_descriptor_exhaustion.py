"""More and more descriptors."""

from tests.conftest import Place
from tests.escape.attacks import Attack, judge

OPEN = """
held = []
try:
    while len(held) < 500:
        held.append({open})
finally:
    for descriptor in held:
        os.close(descriptor)
"""
ATTACKS = {
    name: Attack(OPEN.format(open=lines), "OK", "EMFILE")
    for name, lines in {
        "files": 'os.open("/usr", os.O_RDONLY)',
        "duplicates": "os.dup(0)",
        "eventfds": "os.eventfd(0)",
        "epolls": 'call("epoll_create1", 0)',
    }.items()
} | {
    "a number above the limit": Attack("os.dup2(0, 900); os.close(900)", "OK", "EBADF"),
    "the limit raised": Attack('call("setrlimit", 7, (ctypes.c_uint64 * 2)(512, 512))', "OK", "EPERM"),
}


def test_descriptors_end_at_the_limit(outside: Place, jail: Place, where: str) -> None:
    """limits.open_files is 256: EMFILE beyond, and the run goes on."""
    judge(ATTACKS, outside, jail, where)
