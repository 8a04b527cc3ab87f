"""Which package owns a file: what dpkg, distroless images and apk say of it, read as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.tree.assemble import assemble
from builder.tree.bytecode import cache_path
from builder.tree.owners import Package, dpkg_database, find_owners, os_release, owners
from builder.tree.root import Root
from builder.tree.spec import Rule
from tests.fakeroot import ARCH, LIBRARIES, PYTHON, STDLIB, FakeRoot, contents, elf, python_root, spec

INFO = "/var/lib/dpkg/info"


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    return python_root(tmp_path / "root")


def stanza(name: str, *, state: str = "installed", arch: str = ARCH.name, **fields: str) -> str:
    """A package's part of dpkg's status."""
    more = "".join(f"{key}: {value}\n" for key, value in fields.items())
    return (
        f"Package: {name}\nStatus: install ok {state}\nMaintainer: A <a@example.org>\nArchitecture: {arch}\n"
        f"Version: 1:2.0+b1~x\n{more}Description: first line\n second: line\n .\n"
    )


def database(root: FakeRoot, *stanzas: str, **lists: list[str]) -> None:
    """dpkg's database: `lists` by the name of the file, `:` written as two underscores."""
    root.write("/var/lib/dpkg/status", "\n".join(stanzas))
    for name, paths in lists.items():
        root.write(f"{INFO}/{name.replace('__', ':')}.list", "".join(f"{path}\n" for path in paths))


def owner_names(root: Root, *wanted: str) -> dict[str, str]:
    return {path: one.name for path, one in owners(root, set(wanted), ARCH.name).items()}


def test_a_file_listed_in_lib_is_the_one_that_lies_in_usr_lib(root: FakeRoot) -> None:
    """Debian 12 lists /lib/..., where /lib is a link into /usr."""
    database(root, stanza("libc6"), libc6=["/.", "/lib", f"/lib/{ARCH.triplet}/libc.so.6"])
    found = owners(root, {f"{LIBRARIES}/libc.so.6", f"{LIBRARIES}/ld-real.so"}, ARCH.name)
    assert found == {f"{LIBRARIES}/libc.so.6": Package("libc6", "1:2.0+b1~x", ARCH.name, "libc6")}


def test_what_is_not_installed_owns_nothing(root: FakeRoot) -> None:
    """A removed package leaves its list behind; one that is unpacked has its files on disk."""
    path = f"{STDLIB}/os.py"
    database(root, stanza("gone", state="config-files"), gone=[path])
    assert owner_names(root, path) == {}
    database(root, stanza("there", state="unpacked"), there=[path])
    assert owner_names(root, path) == {path: "there"}


def test_the_source_package_has_its_own_version_where_it_differs(root: FakeRoot) -> None:
    """A binary rebuild has another version than its source, which security trackers go by."""
    path = f"{STDLIB}/os.py"
    for says, shown in (("bzip2 (1.0.8-5)", "bzip2 1.0.8-5"), ("bzip2", "bzip2"), ("b (1:2.0+b1~x)", "b")):
        database(root, stanza("libbz2", Source=says), libbz2=[path])
        assert owners(root, {path}, ARCH.name)[path].source == shown


def test_of_packages_for_several_architectures_the_image_s_own_owns_a_shared_file(root: FakeRoot) -> None:
    """Their lists are told apart by the name, and they share what is the same in both."""
    database(
        root,
        stanza("a", arch="i386"),
        stanza("a"),
        **{"a__i386": [f"{STDLIB}/os.py", f"{LIBRARIES}/libc.so.6"], f"a__{ARCH.name}": [f"{STDLIB}/os.py"]},
    )
    found = owners(root, {f"{STDLIB}/os.py", f"{LIBRARIES}/libc.so.6"}, ARCH.name)
    assert found[f"{STDLIB}/os.py"].architecture == ARCH.name
    assert found[f"{LIBRARIES}/libc.so.6"].architecture == "i386"


def test_a_diverted_file_lies_elsewhere_for_all_but_one(root: FakeRoot) -> None:
    """dpkg-divert(1): what `other` lists lies at the other place, and `keeper` has the path itself."""
    path, place = f"{STDLIB}/os.py", f"{STDLIB}/os.py.distrib"
    root.write(place)
    database(root, stanza("keeper"), stanza("other"), keeper=[path], other=[path])
    root.write("/var/lib/dpkg/diversions", f"{path}\n{place}\nkeeper\n")
    assert owner_names(root, path, place) == {path: "keeper", place: "other"}


def test_distroless_images_have_a_file_for_each_package(root: FakeRoot) -> None:
    """status.d has no state; the lists are of MD5 sums, with paths from the root on."""
    root.write("/var/lib/dpkg/status.d/libc6", "Package: libc6\nVersion: 2.36-9\nArchitecture: amd64\n")
    root.write(
        "/var/lib/dpkg/status.d/libc6.md5sums",
        f"{'0' * 32}  lib/{ARCH.triplet}/libc.so.6\n{'1' * 32}  ./{STDLIB[1:]}/os.py\n",
    )
    found = owner_names(root, f"{LIBRARIES}/libc.so.6", f"{STDLIB}/os.py")
    assert found == {f"{LIBRARIES}/libc.so.6": "libc6", f"{STDLIB}/os.py": "libc6"}


@pytest.mark.parametrize("place", ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"])
def test_apk(root: FakeRoot, place: str) -> None:
    """Folders and files in turn; the package's origin is its source."""
    root.write(
        place,
        f"C:Q1abc=\nP:python-3.13\nV:3.13.5-r1\nA:x86_64\no:python\nF:{STDLIB[1:]}\nR:os.py\nZ:Q1x=\n"
        f"F:{STDLIB[1:]}/json\nR:__init__.py\n\nP:other\nV:1-r0\nA:x86_64\nF:etc\nR:other\n",
    )
    found = owners(root, {f"{STDLIB}/os.py", f"{STDLIB}/json/__init__.py"}, ARCH.name)
    assert set(found.values()) == {Package("python-3.13", "3.13.5-r1", "x86_64", "python", "apk")}
    assert len(found) == 2


@pytest.mark.parametrize(
    "status",
    [
        "Package: ../../etc/x\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n",
        "Package: evil\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1 \x1b[31m\n",
        "Package: evil\nStatus: install ok installed\nArchitecture: ../x\nVersion: 1\n",
        "Package: evil\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\nSource: <script>\n",
        "Package: evil\nStatus: install ok installed\nVersion: 1\n",
        "\x00\xff\n\n\n:::\nPackage\n",
    ],
)
def test_what_is_no_package_owns_nothing(root: FakeRoot, status: str) -> None:
    """Names become parts of paths and of documents: one that is none is passed over."""
    path = f"{STDLIB}/os.py"
    database(root, status, evil=[path], **{"evil__amd64": [path]})
    root.write("/var/lib/dpkg/etc/x.list", f"{path}\n")
    assert owner_names(root, path) == {}


def test_lists_that_lead_out_or_nowhere_are_harmless(root: FakeRoot) -> None:
    """A path is looked up in the base, whatever it says."""
    path = f"{STDLIB}/os.py"
    lines = ["", "no slash", "/../../../etc/os.py", "/nowhere/os.py", f"/usr/bin/{PYTHON}/os.py", path]
    database(root, stanza("a"), a=lines)
    assert owner_names(root, path) == {path: "a"}


def test_bytecode_belongs_to_the_package_of_its_source(root: FakeRoot) -> None:
    """Debian lists no bytecode, and of some modules the tree has nothing else."""
    database(root, stanza("py"), py=[f"{STDLIB}/os.py", f"{STDLIB}/json/__init__.py"])
    found = contents(root, sourceless=(Rule("{stdlib}/json/**", "smaller"),))
    owned = find_owners(found, root, ARCH.name)
    for path in (f"{STDLIB}/os.py", cache_path(f"{STDLIB}/os.py"), f"{STDLIB}/json/__init__.pyc"):
        assert owned[path].name == "py", path


def test_the_bundle_belongs_to_the_package_of_its_certificates(root: FakeRoot) -> None:
    """No package lists it: update-ca-certificates, or we, write it from files that one does."""
    certificate = "/usr/share/ca-certificates/mozilla/A.crt"
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    root.write(certificate, "-----BEGIN")
    database(root, stanza("ca-certificates", arch="all"), **{"ca-certificates": [certificate]})
    owned = find_owners(contents(root), root, ARCH.name)
    assert (owned[bundle].name, certificate in owned) == ("ca-certificates", False)


def test_a_written_database_says_the_same_of_these_files_and_nothing_else(tmp_path: Path) -> None:
    """What a base of kind host hands to Docker has no list of all that is installed here."""
    packages = [Package("a", "1", "amd64", "src 2"), Package("b", "3", "all", "b")]
    owned = {"/usr/lib/a.so": packages[0], "/etc/b": packages[1], "/usr/lib/\udcff": packages[0]}
    copy = FakeRoot(tmp_path)
    for path, text in dpkg_database(owned).items():
        copy.write(path, text.encode(errors="surrogateescape"))
    for path in owned:
        copy.write(path)
    assert owners(copy, {*owned, "/etc/c"}, ARCH.name) == owned


def test_os_release_is_read_with_and_without_quotes(root: FakeRoot) -> None:
    """os-release(5); what is no word is left out."""
    root.write("/usr/lib/os-release", 'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=\'trixie\'\nNAME="D G"\n')
    assert os_release(root) == {"id": "debian", "version_id": "13", "version_codename": "trixie"}
    root.write("/etc/os-release", 'ID="deb ian&x=y"\nVERSION_ID=9\n')
    assert os_release(root) == {"version_id": "9"}


def test_the_report_names_packages_and_what_nobody_claims(root: FakeRoot, tmp_path: Path) -> None:
    """Each package with how many of its files are there; of the rest what is nothing by itself."""
    root.write("/opt/app/tool.py", "x = 1\n")
    root.write("/opt/app/libtool.so", elf())
    root.write(f"{STDLIB}/os.py", "name = 'posix'\n")
    root.write(
        f"/usr/bin/{PYTHON}", root.host(f"/usr/bin/{PYTHON}").read_bytes() + b"\0" + _release() + b"\0"
    )
    database(root, stanza("libc6"), stanza("idle"), libc6=[f"/lib/{ARCH.triplet}/libc.so.6"], idle=["/none"])
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    for name in ("_syscall.abi3.so", "init"):
        (runtime / name).write_bytes(b"")
    (tmp_path / "policy").write_bytes(b"")
    wanted = spec(python_lib_path=("/opt/app",))
    report = assemble(
        wanted, root=root.directory, runtime=runtime, policy=tmp_path / "policy", out=tmp_path / "out"
    )
    (package,) = report.facts["debian"]
    assert (package["name"], package["files"]) == ("libc6", 1)
    assert [report.facts["origins"][index]["what"] for index in package["origins"]] == ["libc.so.6"]
    assert set(report.facts["unclaimed"]) == {
        "/opt/app/libtool.so",
        "/opt/app/tool.py",
        f"{LIBRARIES}/ld-real.so",
        f"{LIBRARIES}/libm.so.6.1",
    }
    assert report.facts["python"]["release"] == _release().decode()


def _release() -> bytes:
    return PYTHON.removeprefix("python").encode() + b".99rc1"
