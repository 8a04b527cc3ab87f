"""Which Debian package has a library, and what a hint says."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.arch import ARCHES
from builder.debian_files import by_policy, hint_for, packages_with, read_contents
from builder.errors import BuildError, MissingLibrary, ToolMissing
from builder.progress import Progress

QUIET = Progress(quiet=True)
AMD64 = ARCHES["amd64"]
MIRROR = "http://127.0.0.1:9/debian"
"""Where nothing listens."""

CONTENTS = """\
usr/lib/x86_64-linux-gnu/libz.so.1                      libs/zlib1g
lib/x86_64-linux-gnu/libz.so.1.2.13                     libs/zlib1g
usr/lib/x86_64-linux-gnu/libz.so                        libdevel/zlib1g-dev
usr/lib/x86_64-linux-gnu/libx.so.1                      libs/libx1-long,libs/libx1b,libs/libx1a,oldlibs/x
usr/lib/x86_64-linux-gnu/liby.so.1                      non-free/libs/liby1,libs/liby1-extra
usr/lib/x86_64-linux-gnu/libdebug.so.1                  debug/libdebug1-dbg
usr/lib/x86_64-linux-gnu/blas/libblas.so.3              libs/libblas3
usr/lib/x86_64-linux-gnu/openblas-pthread/libblas.so.3  libs/libopenblas0-pthread
usr/lib/x86_64-linux-gnu/atlas/libown.so.1              libs/liba
usr/lib/x86_64-linux-gnu/libown.so.1                    libs/libown1
usr/lib/x86_64-linux-gnu/vdpau/libv.so.1                libs/libv1
usr/lib/i386-linux-gnu/libi.so.1                        libs/libi1
usr/lib/libplain.so.2                                   libs/libplain2
usr/lib/python3/dist-packages/libp.so                   python/python3-p
usr/share/libs.so.txt                                   doc/d
"""


def test_a_contents_file_is_read() -> None:
    """Libraries right in the loader's folders or an alternative's; of several packages a certain one."""
    assert read_contents(CONTENTS.splitlines(keepends=True), AMD64) == {
        "libz.so.1": "zlib1g",
        "libz.so.1.2.13": "zlib1g",
        "libx.so.1": "libx1a",
        "liby.so.1": "liby1-extra",
        "libblas.so.3": "libblas3",
        "libown.so.1": "libown1",
        "libplain.so.2": "libplain2",
    }


@pytest.mark.parametrize(
    ("soname", "package"),
    [
        ("libgomp.so.1", "libgomp1"),
        ("libstdc++.so.6", "libstdc++6"),
        ("libX11.so.6", "libx11-6"),
        ("libglib-2.0.so.0", "libglib2.0-0t64"),
        ("libtk8.6.so", "libtk8.6"),
        ("libgdk_pixbuf.so.2", "libgdk-pixbuf2"),
        ("libgone.so.1", None),
    ],
)
def test_the_policys_name_of_a_package(soname: str, package: str | None) -> None:
    """Only if there is a package of that name."""
    names = {
        "libgomp1",
        "libstdc++6",
        "libx11-6",
        "libglib2.0-0t64",
        "libtk8.6",
        "libgdk-pixbuf2",
        "libgone2",
    }
    assert by_policy(soname, names) == package


def ask(cache: Path, *sonames: str) -> dict[str, str]:
    return packages_with(
        sonames or ("libz.so.1",), "trixie", AMD64, mirror=MIRROR, cache=cache, progress=QUIET
    )


def test_debian_out_of_reach_is_an_error_that_names_it_and_leaves_nothing(tmp_path: Path) -> None:
    """Exit code 1, the mirror in the hint; no file in the cache that a later build would believe."""
    with pytest.raises(BuildError) as failure:
        ask(tmp_path)
    assert str(failure.value.hint).startswith(f"is the mirror {MIRROR} within reach?")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_mmdebstrap_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing) as failure:
        ask(tmp_path)
    assert failure.value.hint == "apt-get install mmdebstrap"


def test_hints_are_lines_that_mend() -> None:
    """For each kind of base, literally; with what the config has already."""
    chain = ("/usr/local/lib/python3.13/site-packages/a/x.so",)
    gomp, other = MissingLibrary("libgomp.so.1", chain), MissingLibrary("libother.so.2", chain)
    assert hint_for([gomp], "debian", "trixie", {"libgomp.so.1": "libgomp1"}) == "base_packages: [libgomp1]"
    both = hint_for([gomp], "debian", "trixie", {"libgomp.so.1": "libgomp1"}, ["libz"])
    assert both == "base_packages: [libgomp1, libz]"
    assert hint_for([gomp], "image", "me/base:1", {"libgomp.so.1": "libgomp1"}) == (
        "RUN apt-get update && apt-get install -y --no-install-recommends libgomp1, "
        "in the Dockerfile of me/base:1"
    )
    assert hint_for([other], "debian", "trixie", {}) == (
        f"optional_libraries: [libother.so.2], if nothing ever loads {chain[0]}"
    )
    placed = MissingLibrary("libfoo.so.1", chain, None, ("/opt/x/lib/libfoo.so.1",))
    assert hint_for([placed], "image", "b", {}) == (
        "python_lib_path: [/usr/local/lib/python3.13/site-packages, /opt/x/lib/libfoo.so.1]"
    )
    locked = MissingLibrary("libfoo.so.1", ("/packages/a/x.so",), None, ("/opt/x/lib/libfoo.so.1",))
    assert hint_for([locked], "image", "b", {}) == "python_lib_path: [/opt/x/lib/libfoo.so.1]"
    version = MissingLibrary("libc.so.6", chain, "GLIBC_2.99")
    said = hint_for([gomp, version], "debian", "bookworm", {"libgomp.so.1": "libgomp1"})
    assert said == (
        f"base_packages: [libgomp1]; GLIBC_2.99: a newer base, or an older version of what has {chain[0]}"
    )
