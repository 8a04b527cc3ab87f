"""What a tree needs besides modules: libraries, system files, certificates, the local time."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import BuildError, ConfigError
from builder.tree.spec import Rule
from tests.fakeroot import (
    ARCH,
    LIBRARIES,
    PYTHON,
    STDLIB,
    FakeRoot,
    contents,
    elf,
    only_warning,
    python_root,
)

SITE = "/usr/lib/python3/dist-packages"


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    """A base with an interpreter."""
    return python_root(tmp_path / "root")


def test_an_interpreter_without_its_library_names_the_chain(root: FakeRoot) -> None:
    """The build ends: nothing of the tree could start."""
    root.host(f"{LIBRARIES}/libm.so.6").unlink()
    with pytest.raises(BuildError, match=rf"/usr/bin/{PYTHON} -> libm\.so\.6 \(not found\)"):
        contents(root)


def test_modules_of_the_standard_library_that_cannot_be_loaded_are_left_out(root: FakeRoot) -> None:
    """A module whose library the base lacks, a damaged one and one of another machine; each is said."""
    dynload = f"{STDLIB}/lib-dynload"
    root.write(f"{dynload}/_tkinter.so", elf(needed=["libtk.so"]))
    root.write(f"{dynload}/_half.so", elf()[:70])
    root.write(f"{dynload}/_other.so", elf(machine="EM_386"))
    found = contents(root)
    assert {path for path in found.files if path.startswith(dynload)} == {f"{dynload}/_ok.so"}
    assert len(found.warnings) == 3
    assert f"{dynload}/_tkinter.so -> libtk.so (not found)" in found.warnings[0]
    assert f"not for {ARCH.name}" in found.warnings[1]
    assert f"damaged ELF files: {dynload}/_half.so" in found.warnings[2]


def test_what_a_package_cannot_load_stays_and_is_said(root: FakeRoot) -> None:
    """A package may open its library some other way, or never: its files are as its author packed them."""
    root.write(f"{SITE}/pkg/a.so", elf(needed=["libcuda.so.1"]))
    root.write(f"{SITE}/pkg/b.so", elf(machine="EM_386"))
    found = contents(root)
    assert {f"{SITE}/pkg/a.so", f"{SITE}/pkg/b.so"} <= found.files
    assert f"{SITE}/pkg/a.so -> libcuda.so.1 (not found)" in found.warnings
    assert any("b.so" in warning and f"not for {ARCH.name}" in warning for warning in found.warnings)


def test_libraries_of_packages_come_along(root: FakeRoot) -> None:
    """The closure is that of every ELF file in the tree, packages included, by whatever name it has."""
    root.write(f"{LIBRARIES}/libstdc++.so.6.0.30", elf(needed=["libm.so.6"]))
    root.symlink(f"{LIBRARIES}/libstdc++.so.6", "libstdc++.so.6.0.30")
    root.write(f"{SITE}/pkg/no-suffix", elf(needed=["libstdc++.so.6"]))
    found = contents(root)
    assert f"{LIBRARIES}/libstdc++.so.6.0.30" in found.files
    assert found.links[f"{LIBRARIES}/libstdc++.so.6"] == "libstdc++.so.6.0.30"


def test_libraries_that_no_header_names(root: FakeRoot) -> None:
    """A rule brings a library and what that needs; one that is missing is an error, or optional."""
    root.write(f"{LIBRARIES}/libgcc_s.so.1", elf(needed=["libdeep.so"]))
    root.write(f"{LIBRARIES}/libdeep.so", elf())
    found = contents(root, libraries=(Rule("libgcc_s.so.1", "threads"), Rule("libno.so", "x", optional=True)))
    assert {f"{LIBRARIES}/libgcc_s.so.1", f"{LIBRARIES}/libdeep.so"} <= found.files
    with pytest.raises(BuildError, match=r"libno\.so is not in a test's base: reason"):
        contents(root, libraries=(Rule("libno.so", "reason"),))


def test_system_files_for_the_architecture(root: FakeRoot) -> None:
    """{triplet} is the target's; an optional file that is missing is passed over, another is a problem."""
    root.write(f"{LIBRARIES}/ossl-modules/legacy.so", elf())
    rules = (Rule("/usr/lib/{triplet}/ossl-modules", "r"), Rule("/etc/none", "r", optional=True))
    found = contents(root, system_files=rules)
    assert f"{LIBRARIES}/ossl-modules/legacy.so" in found.files
    assert found.warnings == ()
    with pytest.raises(ConfigError, match="system_lib_requirements: /etc/none is not in"):
        contents(root, system_files=(Rule("/etc/none", "system_lib_requirements"),))


def test_certificates_are_made_where_nobody_configured_the_package(root: FakeRoot) -> None:
    """Debian's extracted package has single files; OpenSSL finds the bundle where it looks for cert.pem."""
    root.write("/usr/share/ca-certificates/mozilla/b.crt", "second")
    root.write("/usr/share/ca-certificates/mozilla/a.crt", "first\n")
    root.write("/usr/share/ca-certificates/mozilla/README", "no certificate")
    root.symlink("/usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt")
    root.write(f"{LIBRARIES}/libcrypto.so.3", elf() + b'OPENSSLDIR: "/usr/lib/ssl"\0')
    root.write(f"{STDLIB}/lib-dynload/_ssl.so", elf(needed=["libcrypto.so.3"]))
    found = contents(root)
    assert found.texts["/etc/ssl/certs/ca-certificates.crt"] == b"first\nsecond\n"
    assert found.links["/usr/lib/ssl/cert.pem"] == "../../../etc/ssl/certs/ca-certificates.crt"
    assert found.warnings == ()


def test_the_bases_own_certificates_are_kept(root: FakeRoot) -> None:
    """A configured base, and a prefix with a cert.pem of its own, give theirs; none at all is said."""
    root.write(f"{LIBRARIES}/libcrypto.so.3", elf() + b'OPENSSLDIR: "/opt/conda/ssl"\0')
    root.write(f"{STDLIB}/lib-dynload/_ssl.so", elf(needed=["libcrypto.so.3"]))
    assert "HTTPS will trust nobody" in only_warning(contents(root))
    root.write("/opt/conda/ssl/cert.pem", "theirs")
    assert "/opt/conda/ssl/cert.pem" in contents(root).files
    root.write("/etc/ssl/certs/ca-certificates.crt", "configured")
    rule = Rule("/etc/ssl/certs/ca-certificates.crt", "r", optional=True)
    found = contents(root, system_files=(rule,))
    assert "/etc/ssl/certs/ca-certificates.crt" in found.files
    assert "/etc/ssl/certs/ca-certificates.crt" not in found.texts


def test_local_time_is_utc_unless_the_config_lists_it(root: FakeRoot) -> None:
    """The base's own zone is not the jail's; with no time zones there is no link that leads to nothing."""
    assert "/etc/localtime" not in contents(root).links
    root.write("/usr/share/zoneinfo/Etc/UTC")
    root.write("/usr/share/zoneinfo/Europe/Berlin")
    root.symlink("/usr/share/zoneinfo/UTC", "Etc/UTC")
    root.symlink("/etc/localtime", "/usr/share/zoneinfo/Europe/Berlin")
    zones = (Rule("/usr/share/zoneinfo", "zones"),)
    assert contents(root, system_files=zones).links["/etc/localtime"] == "../usr/share/zoneinfo/Etc/UTC"
    listed = contents(root, system_files=zones, python_lib_path=("/etc/localtime",))
    assert listed.links["/etc/localtime"] == "../usr/share/zoneinfo/Europe/Berlin"


def test_the_loader_cache_has_the_libraries_that_no_rpath_leads_to(root: FakeRoot) -> None:
    """libpython in /usr/local/lib, as python.org's images have it, has an entry; a wheel's own has none."""
    root.write("/etc/ld.so.conf", "/usr/local/lib\n")
    root.write("/usr/local/lib/libpython.so", elf())
    root.write(f"/usr/bin/{PYTHON}", elf(needed=["libpython.so"], interpreter=ARCH.loader), mode=0o755)
    root.write(f"{SITE}/pkg.libs/libown.so", elf())
    root.write(f"{SITE}/pkg/x.so", elf(needed=["libown.so"], runpath="$ORIGIN/../pkg.libs"))
    cache = contents(root).texts["/etc/ld.so.cache"]
    assert b"\0/usr/local/lib/libpython.so\0" in cache
    assert b"libown.so" not in cache
