"""What goes into a tree, and what is said about what does not."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from builder.errors import ConfigError
from builder.tree.spec import Rule
from tests.fakeroot import LIBRARIES, PYTHON, STDLIB, FakeRoot, contents, elf, only_warning, python_root

SITE = "/usr/lib/python3/dist-packages"


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    """A base with an interpreter, and beside it a file that no tree may have."""
    (tmp_path / "outside").write_text("this machine's")
    return python_root(tmp_path / "root")


def test_the_interpreter_and_all_that_it_needs(root: FakeRoot) -> None:
    """Executable, loader, libraries with the links to them, standard library; nothing else of the base."""
    root.write("/usr/bin/sh", elf(), mode=0o4755)
    root.write("/usr/share/doc/copyright")
    found = contents(root)
    assert found.files == {
        f"/usr/bin/{PYTHON}",
        f"{LIBRARIES}/ld-real.so",
        f"{LIBRARIES}/libc.so.6",
        f"{LIBRARIES}/libm.so.6.1",
        f"{STDLIB}/os.py",
        f"{STDLIB}/json/__init__.py",
        f"{STDLIB}/lib-dynload/_ok.so",
    }
    assert found.links[f"{LIBRARIES}/libm.so.6"] == "libm.so.6.1"
    assert found.executables == {f"/usr/bin/{PYTHON}", f"{LIBRARIES}/ld-real.so"}
    assert found.warnings == ()
    assert found.sys_path == (f"/usr/lib/{PYTHON.replace('.', '')}.zip", STDLIB, f"{STDLIB}/lib-dynload")


def test_folders_that_are_links_come_along(root: FakeRoot) -> None:
    """The path that config.yaml has works in the jail, through every link on its way."""
    found = contents(root, python_path="/bin/python3")
    assert found.links["/bin"] == "usr/bin"
    assert found.links["/usr/bin/python3"] == PYTHON


def test_packages_are_discovered_or_exactly_those_that_are_listed(root: FakeRoot) -> None:
    """No list: every package folder of the interpreter. A list: that, and no other package."""
    root.write(f"{SITE}/yaml.py")
    root.write(f"{SITE}/requests/__init__.py")
    assert f"{SITE}/yaml.py" in contents(root).files
    listed = contents(root, python_lib_path=(f"{SITE}/requests",))
    assert f"{SITE}/requests/__init__.py" in listed.files
    assert f"{SITE}/yaml.py" not in listed.files
    assert listed.sys_path[-1] == SITE
    assert not any(path.startswith("/usr/lib/python3/") for path in contents(root, python_lib_path=()).files)


@pytest.mark.parametrize("listed", [(), ("{site}/numpy",), ("{site}",), ("{stdlib}",)])
def test_packages_inside_the_standard_library_are_packages(root: FakeRoot, listed: tuple[str, ...]) -> None:
    """In the layout of /usr/local a list leaves out other packages that lie within the standard library."""
    site = f"{STDLIB}/site-packages"
    root.write(f"{site}/numpy/__init__.py")
    root.write(f"{site}/other.py")
    found = contents(root, python_lib_path=tuple(p.format(site=site, stdlib=STDLIB) for p in listed))
    assert (f"{site}/numpy/__init__.py" in found.files) is bool(listed)
    assert (f"{site}/other.py" in found.files) is (listed in (("{site}",), ("{stdlib}",)))
    assert (site in found.sys_path) is bool(listed)


@pytest.mark.parametrize(
    ("listed", "folder"),
    [
        ("/opt/modules", "/opt/modules"),
        ("/opt/packages", "/opt/packages"),
        ("/opt/packages/outer/inner", "/opt/packages"),
        ("/opt/empty/site-packages", "/opt/empty/site-packages"),
        ("/opt/link", "/opt/modules"),
        ("/opt/data", None),
        ("/opt/modules/m.py", None),
        ("{stdlib}/config", None),
    ],
)
def test_a_listed_folder_is_on_sys_path_when_something_can_be_imported_from_it(
    root: FakeRoot, listed: str, folder: str | None
) -> None:
    """Folders of modules, the folder that holds a listed package; not data, files, parts of the library."""
    root.write("/opt/modules/m.py")
    root.write("/opt/packages/outer/__init__.py")
    root.write("/opt/packages/outer/inner/__init__.py")
    root.host("/opt/empty/site-packages").mkdir(parents=True)
    root.write("/opt/data/table.csv")
    root.write(f"{STDLIB}/config/tool.py")
    root.symlink("/opt/link", "/opt/modules")
    found = contents(root, python_lib_path=(listed.format(stdlib=STDLIB),))
    assert found.sys_path[3:] == ((folder,) if folder else ())


def test_every_missing_path_is_said_at_once_with_the_nearest(root: FakeRoot) -> None:
    """Exit code 2, one problem for each path, with its place in the list."""
    with pytest.raises(ConfigError) as failure:
        contents(root, python_lib_path=("/usr/lib/jsn", STDLIB, f"{STDLIB}/jsom"))
    assert failure.value.exit_code == 2
    assert [message for message, _ in failure.value.problems] == [
        "python_lib_path[0]: /usr/lib/jsn is not in a test's base",
        f"python_lib_path[2]: {STDLIB}/jsom is not in a test's base",
    ]
    assert f"the nearest that exists is {STDLIB}/json;" in str(failure.value.problems[1][1])


@pytest.mark.parametrize("changes", [{"allow_missing": True}, {"optional_paths": ("/etc/timezone",)}])
def test_optional_and_allowed_paths_are_passed_over_with_a_warning(
    root: FakeRoot, changes: dict[str, object]
) -> None:
    """dify-sandbox's system files, and everything with --allow-missing."""
    found = contents(root, python_lib_path=("/etc/timezone",), **changes)
    said = "python_lib_path[0]: /etc/timezone is not in a test's base: passed over"
    assert only_warning(found) == said


def test_a_listed_file_that_we_supply_is_not_missing(root: FakeRoot) -> None:
    """A base whose packages nobody configured has no /etc/hosts; the tree has, so there is nothing to say."""
    found = contents(root, python_lib_path=("/etc/hosts", "/etc/nsswitch.conf"))
    assert found.warnings == ()
    assert found.links["/etc/hosts"] == "../run/hosts"
    assert found.texts["/run/hosts"].startswith(b"127.0.0.1 localhost\n")


@pytest.mark.parametrize(
    "listed", ["/etc", "/etc/resolv.conf", "/run", "/run/systemd/resolve/stub-resolv.conf"]
)
@pytest.mark.parametrize("leads_to", ["/run/systemd/resolve/stub-resolv.conf", "/usr/lib/own.conf", None])
def test_the_name_servers_of_the_base_are_never_in_the_tree(
    root: FakeRoot, listed: str, leads_to: str | None
) -> None:
    """Nor its hosts: whatever config.yaml lists, the tree has links to files for the container's own."""
    root.write("/run/systemd/resolve/stub-resolv.conf", "nameserver 192.0.2.53\n")
    root.write("/etc/hosts", "192.0.2.7 built-here\n")
    if leads_to is None:
        root.write("/etc/resolv.conf", "nameserver 192.0.2.53\n")
    else:
        root.write(leads_to, "nameserver 192.0.2.53\n")
        root.symlink("/etc/resolv.conf", leads_to)
    found = contents(root, python_lib_path=(listed,))
    assert not [path for path in found.files if b"192.0.2." in root.host(path).read_bytes()]
    assert found.links["/etc/resolv.conf"] == "../run/resolv.conf"
    assert found.texts["/run/resolv.conf"] == b""
    assert b"built-here" not in found.texts["/run/hosts"]


def test_the_users_of_the_base_are_not_the_jails_unless_they_are_listed(root: FakeRoot) -> None:
    """/etc/passwd is ours, and the base's own where config.yaml says so."""
    root.write("/etc/passwd", "alice:x:1000:1000::/home/alice:/bin/sh\n")
    assert b"alice" not in contents(root).texts["/etc/passwd"]
    listed = contents(root, python_lib_path=("/etc/passwd",))
    assert "/etc/passwd" in listed.files
    assert "/etc/passwd" not in listed.texts


@pytest.mark.parametrize("listed", ["/", "/proc", "/dev/null", "/sys/kernel", "/climb"])
def test_a_whole_system_and_the_kernels_folders_are_refused(root: FakeRoot, listed: str) -> None:
    """Neither is a folder of a tree, by whatever name."""
    for path in ("/proc/1", "/dev/null", "/sys/kernel/x"):
        root.write(path)
    root.symlink("/climb", "../../..")
    with pytest.raises(ConfigError, match="is more than a tree can hold"):
        contents(root, python_lib_path=(listed,))


def test_a_listed_link_brings_what_it_leads_to(root: FakeRoot) -> None:
    """A chain of links to a file, and a link to a folder, come with every link on the way."""
    root.write("/opt/v2/lib/data.bin")
    root.symlink("/opt/current", "v2")
    root.symlink("/usr/data", "/opt/current/lib")
    found = contents(root, python_lib_path=("/usr/data",))
    assert "/opt/v2/lib/data.bin" in found.files
    assert found.links["/usr/data"] == "../opt/v2/lib"
    assert "/opt/current" in found.links


def test_links_that_lead_nowhere_or_in_a_circle_are_left_out_and_said(root: FakeRoot) -> None:
    """Each has a warning with its place and what it says."""
    root.symlink(f"{STDLIB}/gone.py", "/etc/gone.py")
    root.symlink(f"{STDLIB}/loop.py", "loop.py")
    found = contents(root)
    assert found.warnings == (
        f"left out the link {STDLIB}/gone.py -> /etc/gone.py: it leads to nothing",
        f"left out the link {STDLIB}/loop.py -> loop.py: it goes round in a circle",
    )
    assert f"{STDLIB}/gone.py" not in found.links


def test_a_link_out_of_the_root_leads_into_it(root: FakeRoot) -> None:
    """`..` above the root is the root: this machine's own file of that name is not taken."""
    root.symlink(f"{STDLIB}/climb", "../../../../outside")
    assert "it leads to nothing" in only_warning(contents(root))
    root.write("/outside", "the base's")
    found = contents(root)
    assert "/outside" in found.files
    assert found.links[f"{STDLIB}/climb"] == "../../../outside"


@pytest.mark.parametrize("target", ["/", "..", "/usr", "/opt/deep", "../../../.."])
def test_a_link_to_a_folder_that_holds_it_does_not_bring_a_system_along(root: FakeRoot, target: str) -> None:
    """A package's link to the root, to a folder at the top, or to one above itself is left out and said."""
    root.write("/usr/share/large")
    root.write("/opt/deep/er/large")
    root.write("/opt/deep/er/pkg/__init__.py")
    root.symlink("/opt/deep/er/pkg/link", target)
    found = contents(root, python_lib_path=("/opt/deep/er/pkg",))
    assert "would come along" in only_warning(found)
    assert not found.files & {"/usr/share/large", "/opt/deep/er/large"}


def test_a_link_to_its_own_folder_stays(root: FakeRoot) -> None:
    """What it leads to is in the tree, so it can be, and the walk ends."""
    root.symlink(f"{STDLIB}/json/here", ".")
    assert contents(root).links[f"{STDLIB}/json/here"] == "."


def test_a_link_of_a_package_to_another_place_brings_it(root: FakeRoot) -> None:
    """Debian's packages link to /usr/share/javascript and the like."""
    root.write("/usr/share/javascript/jquery/jquery.js")
    root.symlink(f"{SITE}/docs/static", "/usr/share/javascript/jquery")
    found = contents(root)
    assert "/usr/share/javascript/jquery/jquery.js" in found.files
    assert found.links[f"{SITE}/docs/static"] == "../../../../share/javascript/jquery"


def test_devices_sockets_and_pipes_are_left_out_and_said(root: FakeRoot) -> None:
    """Only files, folders and links are in a tree."""
    os.mkfifo(root.host(f"{STDLIB}/pipe"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root.host(f"{STDLIB}/socket")))
    found = contents(root)
    assert only_warning(found) == (f"left out 2 devices, sockets or pipes: {STDLIB}/pipe, {STDLIB}/socket")
    assert not found.files & {f"{STDLIB}/pipe", f"{STDLIB}/socket"}


def test_rules_leave_out_what_they_are_about_and_links_to_it(root: FakeRoot) -> None:
    """A link to what a rule left out goes with it, in silence; what config.yaml lists itself stays."""
    rules = (Rule("{stdlib}/test", "tests"), Rule("**/*.a", "static"))
    root.write(f"{STDLIB}/test/support.py")
    root.write(f"{STDLIB}/lib.a")
    root.symlink(f"{STDLIB}/link", "test/support.py")
    found = contents(root, prune=rules)
    assert not found.files & {f"{STDLIB}/test/support.py", f"{STDLIB}/lib.a"}
    assert found.warnings == ()
    listed = contents(root, prune=rules, python_lib_path=(f"{STDLIB}/test", f"{STDLIB}/lib.a"))
    assert {f"{STDLIB}/test/support.py", f"{STDLIB}/lib.a"} <= listed.files


def test_a_distribution_that_is_kept_whole_loses_nothing(root: FakeRoot) -> None:
    """By its RECORD, else by what it is imported as; its neighbour is pruned, and bytecode always goes."""
    rules = (Rule("{site}/**/tests", "t"), Rule("**/*.h", "h"), Rule("**/__pycache__", "anew"))
    for name in ("one", "two", "old"):
        root.write(f"{SITE}/{name}/__init__.py")
        root.write(f"{SITE}/{name}/tests/test_{name}.py")
        root.write(f"{SITE}/{name}/{name}.h")
        root.write(f"{SITE}/{name}/__pycache__/__init__.pyc")
    for name in ("one", "two"):
        files = ("__init__.py", f"tests/test_{name}.py", f"{name}.h", "__pycache__/__init__.pyc")
        root.write(
            f"{SITE}/{name}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n\n"
        )
        root.write(f"{SITE}/{name}-1.dist-info/RECORD", "".join(f"{name}/{file},,\n" for file in files))
    root.write(f"{SITE}/old-1.egg-info/PKG-INFO", "Metadata-Version: 2.1\nName: old\nVersion: 1\n\n")
    root.write(f"{SITE}/old-1.egg-info/top_level.txt", "old\n")
    found = contents(root, prune=rules, keep_whole=("One", "old", "nix"))
    assert only_warning(found) == "keep_whole: nix is not in the tree"
    kept = {
        path.removeprefix(f"{SITE}/")
        for path in found.files
        if path.endswith((".h", ".pyc")) or "test_" in path
    }
    assert kept == {"one/one.h", "one/tests/test_one.py", "old/old.h", "old/tests/test_old.py"}


def test_a_rule_can_hold_only_where_the_base_has_something(root: FakeRoot) -> None:
    """The pure twin of a C module is left out only where the C module is there."""
    rule = Rule("{stdlib}/_pydecimal.py", "twin", where="{stdlib}/lib-dynload/_decimal.*")
    root.write(f"{STDLIB}/_pydecimal.py")
    assert f"{STDLIB}/_pydecimal.py" in contents(root, prune=(rule,)).files
    root.write(f"{STDLIB}/lib-dynload/_decimal.so", elf())
    assert f"{STDLIB}/_pydecimal.py" not in contents(root, prune=(rule,)).files


def test_a_module_that_a_link_leads_to_keeps_its_source(root: FakeRoot) -> None:
    """The link would lead to nothing."""
    rule = Rule("{stdlib}/table*.py", "a table")
    root.write(f"{STDLIB}/table1.py")
    root.write(f"{STDLIB}/table2.py")
    root.symlink(f"{STDLIB}/second.py", "table2.py")
    found = contents(root, sourceless=(rule,))
    assert found.sourceless == {f"{STDLIB}/table1.py"}
    assert f"{STDLIB}/second.py" in found.modules
