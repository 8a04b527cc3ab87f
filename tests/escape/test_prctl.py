"""prctl(2) and its like: a process changes what the kernel holds it to be."""

from tests.conftest import Place
from tests.escape.attacks import Attack, judge

ATTACKS = {
    name: Attack(f'call("prctl", {arguments})', outside, "EPERM")
    for name, (arguments, outside) in {
        "PR_SET_PDEATHSIG": ("1, 0", "OK"),
        "PR_SET_DUMPABLE": ("4, 1", "OK"),
        "PR_SET_DUMPABLE, with high bits": ("4 | 1 << 32, 1", "OK"),
        "PR_SET_KEEPCAPS": ("8, 0", "OK"),
        "PR_SET_SECCOMP": ("22, 2, 0", "EFAULT"),
        "PR_CAPBSET_DROP": ("24, -1", "EINVAL"),
        "PR_SET_TSC": ("26, 1", "OK"),
        "PR_SET_SECUREBITS": ("28, 0", "OK"),
        "PR_SET_TIMERSLACK": ("29, 1", "OK"),
        "PR_TASK_PERF_EVENTS_DISABLE": ("31", "OK"),
        "PR_SET_CHILD_SUBREAPER": ("36, 1", "OK"),
        "PR_SET_NO_NEW_PRIVS": ("38, 1, 0, 0, 0", "OK"),
        "PR_SET_THP_DISABLE": ("41, 1, 0, 0, 0", "OK"),
        "PR_CAP_AMBIENT": ("47, 4, 0, 0, 0", "OK"),
        "PR_SET_SPECULATION_CTRL": ("53, -1, 0, 0, 0", "ENODEV"),
        "PR_SET_SYSCALL_USER_DISPATCH": ("59, 0, 0, 0, 0", "OK"),
        "PR_SCHED_CORE": ("62, -1, 0, 0, 0", "EINVAL"),
        "PR_SET_MDWE": ("65, 0, 0, 0, 0", "OK"),
        "PR_SET_VMA": ("0x53564D41, -1, 0, 0, 0", "EINVAL"),
        "PR_SET_PTRACER": ("0x59616D61, 0, 0, 0, 0", "EINVAL"),
        "an option of the future": ("0x7FFFFFFF, 0, 0, 0, 0", "EINVAL"),
    }.items()
}


def test_no_option_that_sets_is_open(outside: Place, jail: Place, where: str) -> None:
    """EPERM for each of them, in place of root's answer."""
    judge(ATTACKS, outside, jail, where)


IN_FORCE = {
    "PR_GET_DUMPABLE": Attack('found = call("prctl", 3)', "1", "0"),
    "PR_GET_NO_NEW_PRIVS": Attack('found = call("prctl", 39, 0, 0, 0, 0)', "0", "1"),
    "PR_GET_SECCOMP": Attack('found = call("prctl", 21)', "0", "2"),
}


def test_what_is_in_force_can_be_read(outside: Place, jail: Place, where: str) -> None:
    """Not dumpable, no new privileges, under a filter: as the kernel itself says."""
    judge(IN_FORCE, outside, jail, where)
