"""Path resolution in a root filesystem, held against the kernel's own."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import struct
from pathlib import Path

import pytest

from builder.tree.root import Root, is_below, parents
from tests.fakeroot import FakeRoot

_OPENAT2 = 437
_RESOLVE_IN_ROOT = 0x10


def kernel_resolve(directory: Path, jail_path: str) -> str | int:
    """Where the kernel ends up in a chroot of `directory`, or its errno: openat2(2) with RESOLVE_IN_ROOT.

    That has EAGAIN for a `..` while anything on the machine is renamed, and is to be asked again then.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    folder = os.open(directory, os.O_PATH)
    try:
        how = struct.pack("<QQQ", os.O_PATH, 0, _RESOLVE_IN_ROOT)
        path = os.fsencode(jail_path)
        descriptor, number = -1, errno.EAGAIN
        while descriptor < 0 and number == errno.EAGAIN:
            descriptor = libc.syscall(_OPENAT2, folder, ctypes.c_char_p(path), how, ctypes.c_size_t(len(how)))
            number = ctypes.get_errno()
        if descriptor < 0:
            return number
        try:
            reached = Path(f"/proc/self/fd/{descriptor}").readlink()
        finally:
            os.close(descriptor)
    finally:
        os.close(folder)
    return "/" + str(reached.relative_to(directory.resolve())).removeprefix(".")


def our_resolve(directory: Path, jail_path: str) -> str | int | None:
    try:
        return Root(directory).resolve(jail_path).path
    except OSError as error:
        return error.errno


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    """A root with links of every kind; the folder beside it must never be reached."""
    (tmp_path / "outside").write_text("not in the root")
    root = FakeRoot(tmp_path / "root")
    root.write("/usr/lib/real.so")
    root.write("/etc/passwd")
    root.symlink("/lib", "usr/lib")
    root.symlink("/abs", "/usr/lib/real.so")
    root.symlink("/absdir", "/usr/lib")
    root.symlink("/climb", "../../../../etc/passwd")
    root.symlink("/usr/lib/up", "../../../../outside")
    root.symlink("/usr/chain1", "chain2")
    root.symlink("/usr/chain2", "/absdir/real.so")
    root.symlink("/loop1", "loop2")
    root.symlink("/loop2", "loop1")
    root.symlink("/self", "self/x")
    root.symlink("/here", ".")
    root.symlink("/top", "/")
    root.symlink("/dangling", "/nowhere/at/all")
    root.symlink("/slash", "usr/lib/")
    root.symlink("/fileslash", "/etc/passwd/")
    return root


@pytest.mark.parametrize(
    ("jail_path", "real"),
    [
        ("/", "/"),
        ("//usr///lib/", "/usr/lib"),
        ("/lib/real.so", "/usr/lib/real.so"),
        ("/abs", "/usr/lib/real.so"),
        ("/absdir/../lib/./real.so", "/usr/lib/real.so"),
        ("/climb", "/etc/passwd"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/usr/chain1", "/usr/lib/real.so"),
        ("/here/here/top/usr", "/usr"),
        ("/lib/..", "/usr"),
        ("/slash/real.so", "/usr/lib/real.so"),
    ],
)
def test_resolves_as_after_chroot(root: FakeRoot, jail_path: str, real: str) -> None:
    """Absolute links start at the root again, `..` stops there, and folders that are links are followed."""
    assert root.resolve(jail_path).path == real == kernel_resolve(root.directory, jail_path)


@pytest.mark.parametrize(
    ("jail_path", "number"),
    [
        ("/loop1", errno.ELOOP),
        ("/self", errno.ELOOP),
        ("/dangling", errno.ENOENT),
        ("/usr/lib/up", errno.ENOENT),
        ("/etc/passwd/x", errno.ENOTDIR),
        ("/etc/passwd/..", errno.ENOTDIR),
        ("/etc/passwd/", errno.ENOTDIR),
        ("/fileslash", errno.ENOTDIR),
        ("/nowhere/../etc", errno.ENOENT),
    ],
)
def test_fails_as_the_kernel_does(root: FakeRoot, jail_path: str, number: int) -> None:
    """Circles, dangling links and files that stand where a folder should give the kernel's own errno."""
    with pytest.raises(OSError) as failure:  # noqa: PT011 - the errno is checked below
        root.resolve(jail_path)
    assert failure.value.errno == number == kernel_resolve(root.directory, jail_path)
    assert failure.value.filename == jail_path


@pytest.mark.parametrize("seed", range(30))
def test_agrees_with_the_kernel_on_random_trees(tmp_path: Path, seed: int) -> None:
    """On trees of random folders and links, every path leads where openat2(RESOLVE_IN_ROOT) leads."""
    dice = random.Random(seed)
    directory = tmp_path / "root"
    directory.mkdir()
    names = ["a", "b", "c", "d"]

    def some_path() -> str:
        parts = dice.choices([*names, "..", "."], weights=[3, 3, 3, 3, 4, 1], k=dice.randint(1, 5))
        return dice.choice(["", "/", "/", "../"]) + "/".join(parts) + dice.choice(["", "", "", "/"])

    folders = [directory]
    for _ in range(40):
        path = dice.choice(folders) / dice.choice(names)
        if path.is_symlink() or path.exists():
            continue
        kind = dice.random()
        if kind < 0.35:
            path.mkdir()
            folders.append(path)
        elif kind < 0.5:
            path.touch()
        else:
            path.symlink_to(some_path())
    tried = [some_path() for _ in range(150)]
    assert [our_resolve(directory, path) for path in tried] == [
        kernel_resolve(directory, path) for path in tried
    ]


def test_a_link_at_the_end_can_be_left_alone(root: FakeRoot) -> None:
    """With follow_last=False only the links before the last component are followed."""
    root.symlink("/usr/lib/last", "real.so")
    assert root.resolve("/lib/last", follow_last=False).path == "/usr/lib/last"


def test_says_which_links_it_followed(root: FakeRoot) -> None:
    """Every link on the way is named by its own place, in the order of the way."""
    assert root.resolve("/usr/chain1").links == ("/usr/chain1", "/usr/chain2", "/absdir")


def test_forty_links_are_followed_and_no_more(tmp_path: Path) -> None:
    """The limit is Linux's own."""
    root = FakeRoot(tmp_path)
    root.write("/l0")
    for number in range(1, 42):
        root.symlink(f"/l{number}", f"l{number - 1}")
    assert root.real("/l40") == "/l0" == kernel_resolve(tmp_path, "/l40")
    assert root.real("/l41") is None
    assert kernel_resolve(tmp_path, "/l41") == errno.ELOOP


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("/lib", "usr/lib"),
        ("/abs", "usr/lib/real.so"),
        ("/climb", "etc/passwd"),
        ("/usr/chain1", "chain2"),
        ("/usr/chain2", "lib/real.so"),
        ("/top", "."),
    ],
)
def test_a_rewritten_link_leads_to_the_same_place_without_chroot(
    root: FakeRoot, link: str, target: str
) -> None:
    """Absolute and climbing links become relative ones; those that are fine stay as they are."""
    assert root.relative_target(link) == target


def test_rewriting_does_not_trust_dots_behind_a_linked_folder(tmp_path: Path) -> None:
    """`..` behind a folder that is a link is that folder's real parent, not what the text looks like."""
    root = FakeRoot(tmp_path)
    root.write("/deep/er/file")
    root.host("/deep/er/folder").mkdir()
    root.symlink("/short", "/deep/er/folder")
    root.symlink("/usr/absolute", "/short/../file")
    root.symlink("/usr/relative", "../short/../file")
    assert root.relative_target("/usr/absolute") == "../deep/er/file"
    assert root.relative_target("/usr/relative") == "../deep/er/file"


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    """A name of bytes that are no UTF-8 is listed, resolved and linked to as those very bytes."""
    name = os.fsdecode(b"caf\xe9")
    root = FakeRoot(tmp_path)
    root.write(f"/{name}/file")
    root.symlink("/link", f"/{name}/file")
    assert root.names("/") == [name, "link"]
    assert os.fsencode(root.resolve("/link").path) == b"/caf\xe9/file"
    assert os.fsencode(root.relative_target("/link")) == b"caf\xe9/file"


@pytest.mark.parametrize(
    ("missing", "nearest"),
    [
        ("/usr/lib/reel.so", "/usr/lib/real.so"),
        ("/usr/libs/real.so", "/usr/lib"),
        ("/etc/passwd/x", "/etc/passwd"),
        ("/qqq/www", "/"),
    ],
)
def test_the_nearest_existing_path_is_in_the_deepest_folder_that_exists(
    root: FakeRoot, missing: str, nearest: str
) -> None:
    """A hint names the entry most like the missing one, or the folder where nothing is alike."""
    assert root.nearest(missing) == nearest


def test_below_is_about_folders_and_not_about_letters() -> None:
    """/usr/lib64 is not in /usr/lib; everything is in /."""
    assert is_below("/usr/lib/x", "/usr/lib")
    assert not is_below("/usr/lib64", "/usr/lib")
    assert is_below("/x", "/")
    assert list(parents("/a/b")) == ["/a", "/"]


def test_packages_lie_at_their_place_whatever_the_base_has_there(tmp_path: Path) -> None:
    """A folder of this machine is /packages: its links lead within the root, and the base's own is hidden."""
    base, packages = FakeRoot(tmp_path / "base"), tmp_path / "elsewhere"
    base.write("/packages/old.py")
    base.write("/packages-of-others/a.py")
    base.write("/usr/lib/real.so")
    (packages / "numpy").mkdir(parents=True)
    (packages / "numpy/core.py").write_text("")
    (packages / "out").symlink_to("../usr/lib/real.so")
    (packages / "up").symlink_to("../../../packages/numpy")
    root = Root(base.directory, packages)
    assert root.names("/packages") == ["numpy", "out", "up"]
    assert root.real("/packages/numpy/core.py") == "/packages/numpy/core.py"
    assert root.host("/packages/numpy/core.py") == packages / "numpy/core.py"
    assert root.real("/packages/out") == "/usr/lib/real.so"
    assert root.real("/packages/up/core.py") == "/packages/numpy/core.py"
    assert root.real("/packages/old.py") is None
    assert root.is_file("/packages-of-others/a.py")
    assert Root(base.directory).is_file("/packages/old.py")
