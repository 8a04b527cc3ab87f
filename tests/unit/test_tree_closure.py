"""What a tree needs besides modules: libraries, system files, certificates, the local time."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import BuildError, ConfigError, LibrariesMissing, MissingLibrary
from builder.tree.closure import check_closure
from builder.tree.ldcache import ld_so_cache, read_ld_so_cache
from builder.tree.spec import Rule
from tests.fakeroot import (
    ARCH,
    LIBRARIES,
    PIE,
    PYTHON,
    STDLIB,
    VERSION,
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


def missing(root: FakeRoot, **changes: object) -> tuple[MissingLibrary, ...]:
    """What the tree of `root` lacks."""
    with pytest.raises(LibrariesMissing) as failure:
        contents(root, **changes)
    assert str(failure.value).startswith("shared libraries that a test's base does not have:\n")
    return failure.value.missing


def test_all_that_is_missing_is_said_at_once(root: FakeRoot) -> None:
    """Of the interpreter, the standard library and packages: each library once, by its shortest chain."""
    root.host(f"{LIBRARIES}/libm.so.6").unlink()
    root.write(f"{STDLIB}/lib-dynload/_tk.so", elf(needed=["libtk.so"]))
    root.write(f"{LIBRARIES}/liba.so", elf(needed=["libx.so"]))
    root.write(f"{SITE}/pkg/deep.so", elf(needed=["liba.so"]))
    root.write(f"{SITE}/pkg/direct.so", elf(needed=["libx.so"]))
    root.write(f"{LIBRARIES}/libc.so.6", elf(soname="libc.so.6", versions=["GLIBC_2.36"]))
    root.write(f"{SITE}/pkg/new.so", elf(needed=["libc.so.6"], wanted={"libc.so.6": ["GLIBC_2.38"]}))
    assert missing(root) == (
        MissingLibrary("libc.so.6", (f"{SITE}/pkg/new.so",), "GLIBC_2.38"),
        MissingLibrary("libm.so.6", (f"/usr/bin/{PYTHON}",)),
        MissingLibrary("libtk.so", (f"{STDLIB}/lib-dynload/_tk.so",)),
        MissingLibrary("libx.so", (f"{SITE}/pkg/direct.so",)),
    )


def test_another_place_of_the_base_that_has_the_library_is_named_and_mends_it(root: FakeRoot) -> None:
    """python_lib_path with that very file, or its folder: then the tree's cache leads the loader to it."""
    root.write("/opt/x/lib/libfoo.so.1.2", elf(soname="libfoo.so.1"))
    root.symlink("/opt/x/lib/libfoo.so.1", "libfoo.so.1.2")
    root.write("/opt/y/libfoo.so.1", elf(soname="libfoo.so.1"))
    root.write("/opt/z/libfoo.so.1", elf(machine="EM_386"))
    root.write(f"{SITE}/pkg/x.so", elf(needed=["libfoo.so.1"]))
    (lack,) = missing(root)
    assert lack.places == ("/opt/x/lib/libfoo.so.1", "/opt/y/libfoo.so.1")
    for listed in (*lack.places, "/opt/x/lib", "/opt/x/lib/libfoo.so.1.2"):
        found = contents(root, python_lib_path=(SITE, listed))
        cache = read_ld_so_cache(found.texts["/etc/ld.so.cache"], ARCH)
        expected = "/opt/y" if "/y/" in listed else "/opt/x/lib"
        assert cache["libfoo.so.1"].rpartition("/")[0] == expected
        assert root.real(cache["libfoo.so.1"]) in found.files


def test_what_the_config_calls_optional_may_be_missing(root: FakeRoot) -> None:
    """One line says all of them; a package's file stays, a module of the standard library goes."""
    root.write(f"{SITE}/pkg/a.so", elf(needed=["libcuda.so.1"]))
    root.write(f"{SITE}/pkg/b.so", elf(needed=["libtbb.so.12"]))
    root.write(f"{STDLIB}/lib-dynload/_tk.so", elf(needed=["libtk.so"]))
    found = contents(root, optional_libraries=("libcuda.so.*", "libt*"))
    assert {f"{SITE}/pkg/a.so", f"{SITE}/pkg/b.so"} <= found.files
    assert f"{STDLIB}/lib-dynload/_tk.so" not in found.files
    (gone, optional) = found.warnings
    assert gone.endswith(f": {STDLIB}/lib-dynload/_tk.so -> libtk.so (not found)")
    assert "libcuda.so.1 (not found), " in optional
    assert "libtbb.so.12 (not found)" in optional
    assert [one.soname for one in missing(root, optional_libraries=("libt*",))] == ["libcuda.so.1"]


def test_a_module_of_the_standard_library_that_bases_often_lack_is_left_out(root: FakeRoot) -> None:
    """By a rule, and for the library's sake alone."""
    path = f"{STDLIB}/lib-dynload/_gdbm.so"
    lacking = (Rule("{stdlib}/lib-dynload/_gdbm.*", "often missing"),)
    root.write(path, elf(needed=["libgdbm.so.6"]))
    found = contents(root, lacking=lacking)
    assert path not in found.files
    assert f"{path} -> libgdbm.so.6 (not found)" in only_warning(found)
    root.write(f"{LIBRARIES}/libgdbm.so.6", elf())
    assert path in contents(root, lacking=lacking).files


def test_damaged_and_foreign_modules_of_the_standard_library_are_left_out(root: FakeRoot) -> None:
    """Each kind has a warning; those of a package that is the base's own stay as they are."""
    dynload = f"{STDLIB}/lib-dynload"
    root.write(f"{dynload}/_half.so", elf()[:70])
    root.write(f"{dynload}/_other.so", elf(machine="EM_386"))
    root.write(f"{SITE}/pkg/b.so", elf(machine="EM_386"))
    found = contents(root)
    assert {path for path in found.files if path.startswith(dynload)} == {f"{dynload}/_ok.so"}
    assert f"{SITE}/pkg/b.so" in found.files
    (foreign, damaged) = found.warnings
    assert f"not for {ARCH.name}" in foreign
    assert f"{SITE}/pkg/b.so" in foreign
    assert f"damaged ELF files: {dynload}/_half.so" in damaged


@pytest.mark.parametrize(
    ("name", "content", "is_error"),
    [
        (f"x.cpython-{VERSION.replace('.', '')}-{ARCH.triplet}.so", elf()[:70], True),
        (f"x.cpython-{VERSION.replace('.', '')}-{ARCH.triplet}.so", elf(machine="EM_386"), True),
        ("x.abi3.so", elf()[:70], True),
        ("x.cpython-38-other-linux-gnu.so", elf()[:70], False),
        ("x.so", elf(machine="EM_386") + b"PyInit_x", True),
        ("x.so", elf(machine="EM_386") + b"PyInit_y", False),
        ("libneeded.so", elf()[:70], True),
        ("libneeded.so", b"INPUT(libm.so)\n", True),
        ("libother.so", elf()[:70], False),
    ],
)
def test_a_locked_file_that_something_would_load_and_cannot_is_an_error(
    root: FakeRoot, tmp_path: Path, name: str, content: bytes, is_error: bool
) -> None:
    """By what imports and loads it; packages also ship files for other machines as data, which is said."""
    packages = FakeRoot(tmp_path / "packages")
    packages.write("/pkg/user.so", elf(needed=["libneeded.so"], runpath="$ORIGIN/lib:$ORIGIN/good"))
    packages.write("/pkg/good/libneeded.so", elf())
    packages.write(f"/pkg/lib/{name}", content)
    mounted = FakeRoot(root.directory, packages.directory)
    if is_error:
        with pytest.raises(BuildError, match=rf"/packages/pkg/lib/{name} is "):
            contents(mounted)
    else:
        assert f"/packages/pkg/lib/{name}" in only_warning(contents(mounted))


def test_a_library_that_something_loads_before_is_said_and_not_missing(root: FakeRoot) -> None:
    """As torch does with nvidia's: ctypes loads it by its path, and its soname then satisfies the module."""
    root.write(f"{SITE}/vendor/lib/libv.so.1", elf(soname="libv.so.1"))
    root.write(f"{SITE}/pkg/x.so", elf(needed=["libv.so.1"]))
    assert f"{SITE}/pkg/x.so needs libv.so.1, as {SITE}/vendor/lib/libv.so.1 once" in only_warning(
        contents(root)
    )
    root.write(f"{SITE}/vendor/lib/libv.so.1", elf(soname="libother.so.1"))
    assert [one.soname for one in missing(root)] == ["libv.so.1"]


def test_a_librarys_needs_are_those_it_has_where_it_is_loaded(root: FakeRoot) -> None:
    """DT_RPATH of the module counts for what its library needs, which alone would find nothing."""
    root.write(f"{SITE}/pkg/lib/liba.so", elf(needed=["libb.so"]))
    root.write(f"{SITE}/pkg/lib/libb.so", elf())
    root.write(f"{SITE}/pkg/x.so", elf(needed=["liba.so"], rpath="$ORIGIN/lib"))
    assert contents(root).warnings == ()


def test_a_program_without_its_libraries_is_said(root: FakeRoot) -> None:
    """Nothing in the jail can start one."""
    root.write(f"{SITE}/pkg/tool", elf(needed=["libgui.so"], interpreter=ARCH.loader, flags=PIE))
    assert f"{SITE}/pkg/tool -> libgui.so (not found)" in only_warning(contents(root))


def test_it_is_known_who_needs_a_library(root: FakeRoot) -> None:
    """The interpreter first; every file that needs it by itself; or the rule's reason."""
    root.write(f"{LIBRARIES}/libdeep.so", elf())
    root.write(f"{LIBRARIES}/liba.so", elf(needed=["libdeep.so"]))
    root.write(f"{LIBRARIES}/libgcc_s.so.1", elf())
    root.write(f"{SITE}/pkg/x.so", elf(needed=["liba.so", "libm.so.6"]))
    root.write(f"{SITE}/pkg/y.so", elf(needed=["liba.so"]))
    by = contents(root, libraries=(Rule("libgcc_s.so.1", "threads"),)).needed_by
    assert by[f"{LIBRARIES}/libdeep.so"] == (f"{LIBRARIES}/liba.so",)
    assert by[f"{LIBRARIES}/liba.so"] == (f"{SITE}/pkg/x.so", f"{SITE}/pkg/y.so")
    assert by[f"{LIBRARIES}/libm.so.6"] == (f"/usr/bin/{PYTHON}", f"{SITE}/pkg/x.so")
    assert by[f"{LIBRARIES}/libgcc_s.so.1"] == ("rule: threads",)


def test_alternatives_are_searched_last(root: FakeRoot) -> None:
    """Debian's libblas where no script made its link: by the rules' order, after the loader's own folders."""
    rules = tuple(Rule(f"/usr/lib/{{triplet}}/{name}", "r") for name in ("openblas-pthread", "blas"))
    root.write(f"{LIBRARIES}/blas/libblas.so.3.12", elf(soname="libblas.so.3"))
    root.symlink(f"{LIBRARIES}/blas/libblas.so.3", "libblas.so.3.12")
    root.write(f"{SITE}/pkg/x.so", elf(needed=["libblas.so.3"]))

    def cached() -> str:
        text = contents(root, alternatives=rules).texts["/etc/ld.so.cache"]
        return read_ld_so_cache(text, ARCH)["libblas.so.3"]

    assert [one.soname for one in missing(root)] == ["libblas.so.3"]
    assert cached() == f"{LIBRARIES}/blas/libblas.so.3"
    root.write(f"{LIBRARIES}/openblas-pthread/libblas.so.3", elf(soname="libblas.so.3"))
    assert cached() == f"{LIBRARIES}/openblas-pthread/libblas.so.3"
    root.symlink(f"{LIBRARIES}/libblas.so.3", "/etc/alternatives/libblas")
    root.symlink("/etc/alternatives/libblas", f"{LIBRARIES}/blas/libblas.so.3")
    assert cached() == f"{LIBRARIES}/libblas.so.3"


def test_a_rule_can_wait_for_a_file_that_opens_the_library(root: FakeRoot) -> None:
    """gconv and OpenSSL's modules: beside the library that opens them, where something asks it to."""
    rules = (
        Rule("gconv", "converters", beside="libc.so.*", opener="iconv_open", optional=True),
        Rule("mods/legacy.so", "ciphers", beside="libcrypto.so.*", opener="load try_load", optional=True),
    )
    root.write(f"{LIBRARIES}/gconv/UTF-16.so", elf(needed=["libgconv.so"], runpath="$ORIGIN"))
    root.write(f"{LIBRARIES}/gconv/libgconv.so", elf(imports=["try_load"]))
    root.write(f"{LIBRARIES}/gconv/gconv-modules.cache")
    root.write("/opt/ssl/libcrypto.so.3", elf())
    root.write("/opt/ssl/mods/legacy.so", elf(needed=["libextra.so"]))
    root.write(f"{LIBRARIES}/libextra.so", elf())
    root.write(f"{SITE}/pkg/ssl.so", elf(needed=["libcrypto.so.3"], runpath="/opt/ssl"))
    root.write(f"{SITE}/pkg/x.so", elf(imports=["iconv", "load_x"]))
    plain = contents(root, libraries=rules)
    assert not [path for path in plain.files if "gconv" in path or "legacy" in path]
    root.write(f"{SITE}/pkg/x.so", elf(imports=["iconv_open"]))
    found = contents(root, libraries=rules)
    assert {f"{LIBRARIES}/gconv/UTF-16.so", f"{LIBRARIES}/gconv/gconv-modules.cache"} <= found.files
    # What the first rule brought opens what the second one is about.
    assert {"/opt/ssl/mods/legacy.so", f"{LIBRARIES}/libextra.so"} <= found.files
    assert found.needed_by[f"{LIBRARIES}/gconv/UTF-16.so"] == ("rule: converters",)
    assert found.warnings == ()


def test_libraries_that_nothing_asked_for_are_in_the_cache(root: FakeRoot) -> None:
    """A library that config.yaml lists is found by its name in the jail, too, and not one beside it."""
    root.write(f"{LIBRARIES}/libgomp.so.1", elf(soname="libgomp.so.1"))
    root.write(f"{LIBRARIES}/libodd.so.7.1", elf(soname="libodd.so.7"))
    listed = (f"{LIBRARIES}/libgomp.so.1", f"{LIBRARIES}/libodd.so.7.1")
    cache = read_ld_so_cache(contents(root, python_lib_path=listed).texts["/etc/ld.so.cache"], ARCH)
    assert cache["libgomp.so.1"] == f"{LIBRARIES}/libgomp.so.1"
    assert cache["libodd.so.7"] == f"{LIBRARIES}/libodd.so.7.1"
    assert "libodd.so.7.1" not in cache
    assert "libgone.so.1" not in cache


def test_the_cache_of_the_base_is_not_that_of_the_tree(root: FakeRoot) -> None:
    """It names libraries that the tree does not have, whoever lists it."""
    root.write("/etc/ld.so.cache", "the base's")
    found = contents(root, python_lib_path=("/etc/ld.so.cache",))
    assert b"libc.so.6" in found.texts["/etc/ld.so.cache"]


def test_a_module_gets_more_lines_at_its_end(root: FakeRoot) -> None:
    """In place of the base's file; its own lines keep their numbers."""
    root.write(f"{STDLIB}/ctypes/util.py", "first\nsecond\n")
    found = contents(root, added={"{stdlib}/ctypes/util.py": "more\n", "{stdlib}/none.py": "x\n"})
    assert found.texts[f"{STDLIB}/ctypes/util.py"] == b"first\nsecond\n\n\nmore\n"
    assert f"{STDLIB}/none.py" not in found.texts


def test_a_finished_tree_is_checked_by_its_own_cache(root: FakeRoot) -> None:
    """What the cache leads to is there; without it, and without a library, it is missing."""
    root.write("/opt/lib/libfar.so", elf())
    root.write(f"{SITE}/pkg/x.so", elf(needed=["libfar.so", "libgone.so"]))
    root.write(f"{SITE}/pkg/half.so", elf()[:70])
    python = f"/usr/bin/{PYTHON}"
    expected = [MissingLibrary(name, (f"{SITE}/pkg/x.so",)) for name in ("libfar.so", "libgone.so")]
    assert list(check_closure(root, ARCH, python, ())) == expected
    root.write("/etc/ld.so.cache", ld_so_cache({"libfar.so": "/opt/lib/libfar.so"}, ARCH))
    assert list(check_closure(root, ARCH, python, ())) == expected[1:]
    assert check_closure(root, ARCH, python, ("libg*",)) == ()
    root.host(f"{LIBRARIES}/libm.so.6").unlink()
    assert [one.soname for one in check_closure(root, ARCH, python, ("libg*",))] == ["libm.so.6"]


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
