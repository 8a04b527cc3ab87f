"""An image that is not ours and attacks the machine that enters it, before any lock-down.

Each attack succeeds first where the image is entered by chroot alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder import jailrun
from builder.arch import host_arch
from builder.dockerfile import entrypoint
from builder.image_settings import read_settings
from tests.conftest import REPOSITORY
from tests.shop import Shop

# What the image runs as root, in the place of the runtime. The way out of a chroot is a second one, and a
# folder that was open before it.
HOSTILE = """
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
KEYCTL = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
MARKER, FOLDER, SOCKET = PATHS

def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")

def leave():
    top = os.open("/", os.O_RDONLY)
    os.chroot("/usr")
    os.fchdir(top)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")

def read():
    leave()
    os.close(os.open(MARKER, os.O_RDONLY))

def write():
    leave()
    os.close(os.open(FOLDER + "/written", os.O_WRONLY | os.O_CREAT))

def device():
    os.mknod("/var/sandbox/sandbox-python/tmp/device", 0o20666, os.makedev(1, 3))

def mount(kind):
    call(libc.mount(kind, b"/var/sandbox/sandbox-python/tmp", kind, 0, None))

def remount():
    call(libc.mount(None, b"/", None, 4096 | 32, None))
    os.close(os.open("/written", os.O_WRONLY | os.O_CREAT))

def environment():
    if "SECRET_OF_THE_BUILDER" not in os.environ:
        raise OSError(errno.ENOENT, "")

def keyring():
    call(libc.syscall(KEYCTL, 10, -3, b"user", b"secret of the builder", 0))

def abstract_socket():
    socket.socket(socket.AF_UNIX).connect("\\0" + SOCKET)

attacks = {
    "read": read, "write": write, "device": device, "remount": remount, "environment": environment,
    "keyring": keyring, "socket": abstract_socket,
    "devtmpfs": lambda: mount(b"devtmpfs"), "proc": lambda: mount(b"proc"), "sysfs": lambda: mount(b"sysfs"),
}
for name, attack in attacks.items():
    if os.fork() == 0:
        try:
            attack()
            said = "OK"
        except OSError as error:
            said = errno.errorcode[error.errno]
        os.write(2, f"attack {name}: {said};\\n".encode())
        os._exit(0)
    os.wait()
os._exit(99)
"""

WANTED = {
    "read": "ENOENT",
    "write": "ENOENT",
    "device": "EPERM",
    "remount": "EPERM",
    "environment": "ENOENT",
    "keyring": "ENOKEY",
    "socket": "ECONNREFUSED",
    "devtmpfs": "EPERM",
    "proc": "EPERM",
    "sysfs": "EPERM",
}

# An ordinary user makes no device anywhere, and shows nobody's hardware.
ROOT_ALONE = {"device", "devtmpfs", "sysfs"}

# The same mounts, and a chroot.
BY_CHROOT = """
mount --bind "$0" "$0"
mount -o remount,bind,ro,nosuid,nodev "$0"
mount -t tmpfs tmpfs "$0/var/sandbox/sandbox-python/tmp"
exec chroot "$0" "$@"
"""

WITH_SECRET = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
join, add = {"x86_64": (250, 248), "aarch64": (219, 217)}[os.uname().machine]
assert libc.syscall(join, 1, b"of-the-builder") > 0
assert libc.syscall(add, b"user", b"secret of the builder", b"secret", 6, -3) > 0
os.environ["SECRET_OF_THE_BUILDER"] = "secret"
os.execvp(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class Hostile:
    """An unpacked image, and what it is after."""

    root: Path
    python: str
    folder: Path
    user: list[str]
    namespaces: list[str]

    def results(self, command: list[str]) -> dict[str, str]:
        """What each attack came to under `command`, which is started with secrets around it."""
        whole = [*self.user, sys.executable, "-c", WITH_SECRET, *command]
        done = subprocess.run(
            whole, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        found = dict(re.findall(r"attack (\w+): (\w+);", done.stderr))
        assert found, done.stderr
        return found

    def run_first(self, text: str) -> None:
        """Makes `text` what the image runs in the place of its attacks."""
        (self.root / "sandbox/runtime/__init__.py").write_text(text)

    def by_chroot(self) -> dict[str, str]:
        namespaces = [*self.namespaces, "--mount", "--pid", "--fork"]
        enter = ["unshare", *namespaces, "sh", "-c", BY_CHROOT, str(self.root)]
        return self.results([*enter, *entrypoint(self.python)[1:], "-c", "pass"])


@pytest.fixture(params=["root", "ordinary user"])
def hostile(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Iterator[Hostile]:
    """A good image, but for what it runs first."""
    shop = Shop.open(root, tmp_path / "root", host_arch())
    shop.write_report()
    (tmp_path / "marker").write_text("secret")
    (tmp_path / "folder").mkdir()
    name = f"hostile-{tmp_path.name}-{id(shop)}"
    paths = [str(tmp_path / "marker"), str(tmp_path / "folder"), name]
    (shop.place.root / "sandbox/runtime/__init__.py").write_text(HOSTILE.replace("PATHS", json.dumps(paths)))
    ordinary = request.param != "root"
    user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if ordinary else []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{name}")
        listening.listen(64)
        yield Hostile(
            shop.place.root,
            shop.place.settings["python"],
            tmp_path / "folder",
            user,
            ["--map-root-user"] if ordinary else [],
        )
    shutil.rmtree(shop.place.root)


def test_an_image_by_chroot_alone_has_it_all(hostile: Hostile) -> None:
    """The control."""
    found = hostile.by_chroot()
    expected = set(WANTED) - (ROOT_ALONE if hostile.user else set())
    assert {name for name, said in found.items() if said == "OK"} >= expected
    assert (hostile.folder / "written").exists()


def test_an_image_stays_in_its_root(hostile: Hostile) -> None:
    """It gets nothing of the machine, neither files nor devices, environment, keys or sockets."""
    command = [sys.executable, "-m", "builder", "check", "--tree", str(hostile.root)]
    assert hostile.results(command) == WANTED
    assert not list(hostile.folder.iterdir())
    assert not (hostile.root / "written").exists()


@pytest.mark.parametrize("hostile", ["root"], indirect=True)
def test_root_in_there_is_nobody_here(hostile: Hostile) -> None:
    """What the image runs has a uid that no other program has; its parent, which is ours, is root."""
    hostile.run_first("import os, time\nos.write(2, b'ready\\n')\ntime.sleep(60)\n")
    command = jailrun.enter_command(hostile.root, read_settings(hostile.root), 12345)
    with subprocess.Popen([*command, *entrypoint(hostile.python), "-c", "1"], stderr=subprocess.PIPE) as run:
        assert run.stderr is not None
        try:
            assert run.stderr.readline() == b"ready\n"
            uids = {uid for process in Path("/proc").glob("[0-9]*") for uid in uids_in(hostile.root, process)}
        finally:
            run.kill()
    assert uids == {0, (1 << 31) + 12345}


def uids_in(root: Path, process: Path) -> set[int]:
    """All uids of a process that has `root` as its root; none of another process."""
    try:
        if (process / "root").stat().st_ino != root.stat().st_ino:
            return set()
        (line,) = (one for one in (process / "status").read_text().splitlines() if one.startswith("Uid:"))
    except OSError:  # it has ended
        return set()
    return set(map(int, line.split()[1:]))


@pytest.mark.parametrize("hostile", ["root"], indirect=True)
@pytest.mark.parametrize("kept", [["KEPT"], []])
def test_a_run_has_the_variables_that_its_image_keeps(kept: list[str], hostile: Hostile) -> None:
    """And no other."""
    hostile.run_first("import os\nos.write(2, f'{sorted(os.environ)}'.encode())\nos._exit(99)\n")
    path = hostile.root / "sandbox/runtime.json"
    settings = read_settings(hostile.root) | {"env_keep": kept}
    path.unlink()  # another root shares its bytes
    path.write_text(json.dumps(settings))
    call = "import sys, pathlib, builder.jailrun as it; it.run(pathlib.Path(sys.argv[1]), ['-c', 'pass'])"
    done = subprocess.run(
        [sys.executable, "-c", call, str(hostile.root)],
        cwd=REPOSITORY,
        env=os.environ | {"KEPT": "a", "SECRET": "b"},
        capture_output=True,
        text=True,
        check=False,
    )
    # The image's interpreter adds LC_CTYPE by itself.
    (names,) = re.findall(r"^\[.*?\]", done.stderr, re.MULTILINE)
    assert [name for name in re.findall(r"\w+", names) if name != "LC_CTYPE"] == kept


@pytest.mark.parametrize("hostile", ["root"], indirect=True)
def test_without_a_user_namespace_nothing_is_run(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel says is told. In the control it allows one more, below that of an ordinary user."""
    hostile.run_first("import os\nos.write(2, b'started')\nos._exit(99)\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    command = [*jailrun.enter_command(hostile.root, read_settings(hostile.root)), *entrypoint(hostile.python)]
    limited = 'echo "$0" > /proc/sys/user/max_user_namespaces; exec "$@"'
    said = {}
    for most in (2, 1):
        outer = ["unshare", "--map-root-user", "sh", "-c", limited, str(most)]
        said[most] = subprocess.run([*outer, *command, "-c", "1"], capture_output=True, check=False).stderr
    assert said[2] == b"started"
    assert said[1].startswith(b"enter: a user namespace of its own")
