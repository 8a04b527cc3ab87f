"""Parts of the kernel that sandboxed code has no use for: each is a long list of past holes."""

import pytest

from tests.conftest import Place
from tests.escape.attacks import NOBODY, Attack, judge, judge_control, judge_killed

KILLED = {
    name: Attack(lines, outside, "SIGSYS")
    for name, (lines, outside) in {
        "bpf": ('call("bpf", -1, 0, 0)', "EINVAL"),
        "userfaultfd": ('call("userfaultfd", -1)', "EINVAL"),
        "open_by_handle_at": ('call("open_by_handle_at", -1, 0, 0)', "EFAULT"),
        "pivot_root": ('call("pivot_root", 0, 0)', "EFAULT"),
        "init_module": ('call("init_module", 0, 0, 0)', "EFAULT"),
        "finit_module": ('call("finit_module", -1, 0, -1)', "EINVAL"),
        "delete_module": ('call("delete_module", 0, 0)', "EFAULT"),
        "kexec_load": ('call("kexec_load", 0, -1, 0, -1)', "EINVAL"),
        "kexec_file_load": ('call("kexec_file_load", -1, -1, 0, 0, -1)', "EINVAL"),
    }.items()
}


def test_the_kernel_would_answer(outside: Place) -> None:
    """The control: root's calls are refused for their arguments alone."""
    judge_control(KILLED, outside)


@pytest.mark.parametrize("name", KILLED)
def test_what_only_an_attack_would_call_ends_the_run(name: str, jail: Place) -> None:
    """SIGSYS for the whole run."""
    judge_killed(KILLED[name], jail)


ATTACKS = {
    "io_uring_setup": Attack('call("io_uring_setup", 1, 0)', "EFAULT", "ENOSYS"),
    "io_uring_enter": Attack('call("io_uring_enter", -1, 0, 0, 0, 0, 0)', "EBADF", "ENOSYS"),
    "io_uring_register": Attack('call("io_uring_register", -1, 0, 0, 0)', "EINVAL", "ENOSYS"),
    "io_setup": Attack('call("io_setup", 1, 0)', "EFAULT", "EPERM"),
    "keyctl": Attack('call("keyctl", 0, -3, 1)', "OK", "EPERM"),  # the session's keyring
    "add_key": Attack('call("add_key", 0, 0, 0, 0, 0)', "EFAULT", "EPERM"),
    "request_key": Attack('call("request_key", 0, 0, 0, 0)', "EFAULT", "EPERM"),
    "perf_event_open": Attack('call("perf_event_open", 0, 0, 0, 0, 0)', "EFAULT", "EPERM"),
    "personality": Attack('call("personality", 0x0040000)', "OK", "EPERM"),  # ADDR_NO_RANDOMIZE
    "personality, only asked": Attack('call("personality", 0xFFFFFFFF)', "OK", "EPERM"),
    "fanotify_init": Attack('call("fanotify_init", -1, 0)', "EINVAL", "EPERM"),
    "inotify_init1": Attack('os.close(call("inotify_init1", 0))', "OK", "EPERM"),
    "name_to_handle_at": Attack('call("name_to_handle_at", -1, 0, 0, 0, 0)', "EFAULT", "EPERM"),
    "memfd_secret": Attack('call("memfd_secret", -1)', "EINVAL", "EPERM"),
    "pkey_alloc": Attack('call("pkey_alloc", -1, 0)', "EINVAL", "EPERM"),
    "vmsplice": Attack('call("vmsplice", -1, 0, 0, 0)', "EBADF", "EPERM"),
    "splice": Attack('call("splice", -1, 0, -1, 0, 0, 0)', "OK", "EPERM"),
    "tee": Attack('call("tee", -1, -1, 0, 0)', "OK", "EPERM"),
    "remap_file_pages": Attack('call("remap_file_pages", 1, 0, 1, 0, 0)', "EINVAL", "EPERM"),
    "shmget": Attack('call("shmget", 0, 0, 0)', "EINVAL", "EPERM"),
    "msgget": Attack(f'call("msgget", {NOBODY}, 0)', "ENOENT", "EPERM"),
    "semget": Attack(f'call("semget", {NOBODY}, 1, 0)', "ENOENT", "EPERM"),
    "mq_open": Attack('call("mq_open", 0, 0, 0, 0)', "EFAULT", "EPERM"),
    "syslog": Attack(
        'found = call("syslog", 10, 0, 0) > 0', "True", "EPERM"
    ),  # how large the kernel's log is
    "reboot": Attack('call("reboot", 0, 0, 0, 0)', "EINVAL", "EPERM"),
    "sethostname": Attack('call("sethostname", 0, -1)', "EINVAL", "EPERM"),
    "clock_settime": Attack('call("clock_settime", -1, 0)', "EFAULT", "EPERM"),
    "adjtimex": Attack('call("adjtimex", 0)', "EFAULT", "EPERM"),
    "swapon": Attack('call("swapon", 0, -1)', "EINVAL", "EPERM"),
    "quotactl": Attack('call("quotactl", -1, 0, 0, 0)', "EINVAL", "EPERM"),
    "acct": Attack('call("acct", 1)', "EFAULT", "EPERM"),
    "mlockall": Attack('call("mlockall", 0)', "EINVAL", "EPERM"),
    "seccomp": Attack('call("seccomp", 2, 0, 0)', "EFAULT", "EPERM"),  # which actions there are
    "landlock": Attack('call("landlock_create_ruleset", 0, 0, -1)', "EINVAL", "EPERM"),
    "set_tid_address": Attack('found = call("set_tid_address", 0) > 0', "True", "EPERM"),
}


def test_the_rest_is_denied(outside: Place, jail: Place, where: str) -> None:
    """EPERM, and ENOSYS for io_uring, whose callers then do without; the kernel itself would answer."""
    judge(ATTACKS, outside, jail, where)
