"""A second chroot, which is how a root process leaves the first."""

from pathlib import Path

from tests.conftest import Place
from tests.escape.attacks import Attack, judge


def test_a_second_chroot_does_not_lead_out(outside: Place, jail: Place, where: str, tmp_path: Path) -> None:
    """Chroot to a folder below, and climb: root reads the host's files, the run gets EPERM at once."""
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    climb = f"""
os.chroot("usr")
for _ in range(32):
    os.chdir("..")
os.chroot(".")
found = open({str(secret)!r}).read()
"""
    judge({"climb": Attack(climb, "of the host", "EPERM")}, outside, jail, where)


CALLS = {
    "chroot": Attack('os.chroot(".")', "OK", "EPERM"),
    "chroot of a path that is not mapped": Attack('call("chroot", 1)', "EFAULT", "EPERM"),
    "by way of unshare": Attack('call("unshare", 0x200)', "OK", "EPERM"),  # CLONE_FS
    "by way of setns": Attack('call("setns", os.open("/", 0), 0)', "EINVAL", "EPERM", restricted="EACCES"),
}


def test_no_call_changes_the_root(mounted: Place, jail: Place, where: str) -> None:
    """EPERM where the kernel did it, or complained of the arguments; fchdir alone leads nowhere."""
    judge(CALLS, mounted, jail, where)
