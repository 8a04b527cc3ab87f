"""Getting back the user, the groups and the capabilities that the lock-down gave up."""

import os
from dataclasses import replace

from tests.conftest import Place
from tests.escape.attacks import Attack, judge, outcomes
from tests.escape.conftest import Entrypoint

CAPSET = """
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
wanted = (ctypes.c_uint32 * 6)(0, 0, 0, 0, 0, 0)
wanted[0] = wanted[1] = 1 << 18  # CAP_SYS_CHROOT
call("capset", header, wanted)
"""

# In an order in which root in the control stays root: capset comes last.
ATTACKS = {
    name: Attack(lines, "OK", "EPERM")
    for name, lines in {
        "setuid": "os.setuid(0)",
        "seteuid": "os.seteuid(0)",
        "setreuid": "os.setreuid(0, 0)",
        "setresuid": "os.setresuid(0, 0, 0)",
        "setresuid that changes nothing": "os.setresuid(-1, -1, -1)",
        "setfsuid": 'call("setfsuid", 0)',
        "setgid": "os.setgid(0)",
        "setegid": "os.setegid(0)",
        "setregid": "os.setregid(0, 0)",
        "setresgid": "os.setresgid(0, 0, 0)",
        "setfsgid": 'call("setfsgid", 0)',
        "setgroups": "os.setgroups([0])",
        "initgroups": 'os.initgroups("root", 0)',
        "securebits": 'call("prctl", 28, 0)',
        "keep-caps": 'call("prctl", 8, 1)',
        "ambient capabilities": 'call("prctl", 47, 4, 0, 0, 0)',
        "capset": CAPSET,
    }.items()
}


def test_user_groups_and_capabilities_stay_given_up(outside: Place, jail: Place, where: str) -> None:
    """EPERM for each call that root is granted, those that would change nothing included."""
    judge(ATTACKS, outside, jail, where)


BOUNDING_SET = """
held = []
for number in range(64):
    try:
        held.append(call("prctl", 23, number))
    except OSError:  # past the last capability
        break
found = (any(held), len(held) > 30)
"""


LEFT = {
    "ids": Attack("found = 0 in (*os.getresuid(), *os.getresgid())", "True", "False"),
    "bounding set": Attack(BOUNDING_SET, "(True, True)", "(False, True)"),
}


def test_nothing_of_root_is_left(outside: Place, jail: Place, where: str) -> None:
    """No id is 0, and no capability is in the bounding set, from which a set-id program would draw."""
    judge(LEFT, outside, jail, where)


def test_no_group_is_left(entrypoint: Entrypoint) -> None:
    """Root's supplementary groups are gone. (An ordinary user cannot give up any: setgroups(2).)"""
    groups = replace(entrypoint, before_exec=lambda: os.setgroups([4, 27]))
    control = replace(groups, script="/print-groups.py")
    control.replace("print-groups.py", b"import posix; print(posix.getgroups())")
    assert control.start().stdout == "[4, 27]\n"
    assert outcomes(groups, {"groups": "found = os.getgroups()"}) == {"groups": "[]"}


def test_no_set_id_file_is_in_the_tree(jail: Place) -> None:
    """Not one of the files that the code can see has a set-user-id or a set-group-id bit."""
    search = """
found = seen = 0
for folder, _, names in os.walk("/usr"):
    for name in names:
        seen += 1
        found += os.lstat(os.path.join(folder, name)).st_mode & 0o6000 != 0
found = (found, seen > 100)
"""
    assert outcomes(jail, {"search": search}) == {"search": "(0, True)"}
