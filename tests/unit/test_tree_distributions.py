"""Names of distributions and of what they let one import, from good metadata and from hostile one."""

from __future__ import annotations

import importlib.metadata
import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.tree.distributions import Distribution, distributions, normalized
from builder.tree.spec import PACKAGES_PATH
from tests.fakeroot import FakeRoot

SITE = "/usr/lib/python3/dist-packages"


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    return FakeRoot(tmp_path)


def install(
    root: FakeRoot,
    name: str,
    *files: str,
    metadata: str = "",
    folder: str = SITE,
    record: str | None = None,
    **texts: str,
) -> None:
    """A distribution NAME-1.0 with empty files, listed in its RECORD unless that is given."""
    info = f"{folder}/{name.replace('-', '_')}-1.0.dist-info"
    for file in files:
        root.write(f"{folder}/{file}")
    root.write(f"{info}/METADATA", f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{metadata}\nText\n")
    listed = "".join(f"{file},sha256=x,1\n" for file in files)
    root.write(f"{info}/RECORD", listed if record is None else record)
    for title, text in texts.items():
        root.write(f"{info}/{title}.txt", text)


def found(root: FakeRoot, folder: str = SITE) -> Mapping[str, Distribution]:
    return {one.name: one for one in distributions(root, [folder], root.is_file)}


def imports(root: FakeRoot, folder: str = SITE) -> tuple[str, ...]:
    (one,) = found(root, folder).values()
    return one.imports


@pytest.mark.parametrize(
    ("name", "files", "top_level", "expected"),
    [
        ("beautifulsoup4", ["bs4/__init__.py", "bs4/tests/__init__.py"], "", ["bs4"]),
        ("PyYAML", ["yaml/__init__.py", "_yaml/__init__.py"], "_yaml\nyaml\n", ["_yaml", "yaml"]),
        ("python-docx", ["docx/__init__.py", "docx/templates/default.docx"], "docx\n", ["docx"]),
        ("attrs", ["attr/__init__.py", "attrs/__init__.py"], "", ["attr", "attrs"]),
        ("six", ["six.py"], "", ["six"]),
        ("scikit-learn", ["sklearn/__init__.py", "scikit_learn.libs/libgomp-a1.so.1"], "", ["sklearn"]),
        (
            "cffi",
            ["_cffi_backend.cpython-313-x86_64-linux-gnu.so", "cffi/__init__.py"],
            "_cffi_backend\ncffi\n",
            ["_cffi_backend", "cffi"],
        ),
        (
            "duckdb",
            ["_duckdb.abi3.so", "_duckdb-stubs/__init__.pyi", "duckdb/__init__.py"],
            "",
            ["_duckdb", "duckdb"],
        ),
        ("wrapt", ["wrapt/__init__.py", "wrapt-stubs/__init__.pyi"], "wrapt\nwrapt-stubs\n", ["wrapt"]),
        ("frozen", ["frozen/__init__.pyc", "__pycache__/x.cpython-313.pyc"], "", ["frozen"]),
        ("plain", ["plain.so", "libplain.so", "libplain.so.1"], "", ["plain"]),
        # Namespaces: what is right below them.
        (
            "matplotlib",
            [
                "matplotlib/__init__.py",
                "mpl_toolkits/mplot3d/__init__.py",
                "mpl_toolkits/mplot3d/art3d.py",
                "pylab.py",
            ],
            "",
            ["matplotlib", "mpl_toolkits.mplot3d", "pylab"],
        ),
        (
            "google-cloud-storage",
            ["google/cloud/storage/__init__.py", "google/cloud/storage/blob.py", "google/cloud/one.py"],
            "google\n",
            ["google.cloud.one", "google.cloud.storage"],
        ),
        # Beside the packages.
        (
            "data",
            [
                "bin/tool.py",
                "share/man.py",
                "include/x.py",
                "tests/__init__.py",
                "docs/conf.py",
                "data/__init__.py",
            ],
            "",
            ["data"],
        ),
        ("only-tests", ["tests/__init__.py"], "tests\n", []),
        ("types-data", ["data-stubs/__init__.pyi"], "", []),
        ("keyword", ["class.py", "a-b.py", "1a.py", "ok.py"], "class\na-b\nok\nabsent\n", ["ok"]),
    ],
)
def test_import_names(
    root: FakeRoot, name: str, files: list[str], top_level: str, expected: list[str]
) -> None:
    """As importlib.metadata infers them, less what nobody imports and what is not there."""
    install(root, name, *files, **({"top_level": top_level} if top_level else {}))
    assert list(imports(root)) == expected


def test_names_of_the_metadata_itself_come_first(root: FakeRoot) -> None:
    """PEP 794: Import-Name, with dots and private ones; Import-Namespace where there is none; none at all."""
    files = ["a/__init__.py", "a/b.py", "_c.py", "d.py", "ns/x/__init__.py"]
    install(root, "named", *files, metadata="Import-Name: a.b\nImport-Name: _c ; private\nImport-Name: no\n")
    assert imports(root) == ("_c", "a.b")
    install(root, "named", *files, metadata="Import-Namespace: ns\n")
    assert imports(root) == ("ns.x",)
    install(root, "named", *files, metadata="Import-Name:\n")
    assert imports(root) == ()
    install(root, "named", *files)
    assert imports(root) == ("_c", "a", "d", "ns.x")


def test_only_what_the_tree_has(root: FakeRoot) -> None:
    """Rules leave files out, and packages with them."""
    install(root, "both", "one/__init__.py", "two/__init__.py")
    (whole,) = distributions(root, [SITE], root.is_file)
    (pruned,) = distributions(
        root, [SITE], lambda path: root.is_file(path) and not path.startswith(f"{SITE}/two")
    )
    assert (whole.imports, pruned.imports) == (("one", "two"), ("one",))


def test_locked_ones_lie_at_packages(root: FakeRoot) -> None:
    """Each folder's own, in the order of the folders."""
    install(root, "one", "one.py", folder=PACKAGES_PATH)
    install(root, "two", "two.py")
    both = distributions(root, [PACKAGES_PATH, SITE, PACKAGES_PATH, "/absent"], root.is_file)
    assert [(one.name, one.version, one.path, one.locked) for one in both] == [
        ("one", "1.0", f"{PACKAGES_PATH}/one-1.0.dist-info", True),
        ("two", "1.0", f"{SITE}/two-1.0.dist-info", False),
    ]


def test_debian_lists_no_files(root: FakeRoot) -> None:
    """top_level.txt, and without it the module that is called as its distribution."""
    root.write(f"{SITE}/numpy/__init__.py")
    root.write(f"{SITE}/numpy/core.py")
    root.write(f"{SITE}/numpy-2.2.4.dist-info/METADATA", "Name: numpy\nVersion: 2.2.4\n")
    root.write(f"{SITE}/dateutil/__init__.py")
    root.write(f"{SITE}/python_dateutil-2.9.egg-info/PKG-INFO", "Name: python-dateutil\nVersion: 2.9\n")
    root.write(f"{SITE}/python_dateutil-2.9.egg-info/top_level.txt", "dateutil\n")
    root.write(f"{SITE}/zope/interface/__init__.py")
    root.write(f"{SITE}/zope.interface-7.2.egg-info/top_level.txt", "zope\n")
    root.write(f"{SITE}/roman.py")
    root.write(f"{SITE}/roman-5.0.egg-info", "Name: roman\nVersion: 5.0\n")
    root.write(f"{SITE}/bs4/__init__.py")
    root.write(f"{SITE}/beautifulsoup4-4.13.dist-info/METADATA", "Name: beautifulsoup4\n")
    root.write(f"{SITE}/old/__init__.py")
    root.write(
        f"{SITE}/Old-1.egg-info/installed-files.txt", "../old/__init__.py\n../../outside.py\nPKG-INFO\n"
    )
    assert {name: (one.version, one.imports) for name, one in found(root).items()} == {
        "numpy": ("2.2.4", ("numpy",)),
        "python-dateutil": ("2.9", ("dateutil",)),
        "zope.interface": ("7.2", ("zope.interface",)),
        "roman": ("5.0", ("roman",)),
        "beautifulsoup4": ("4.13", ()),
        "Old": ("1", ("old",)),
    }


def test_hostile_metadata(root: FakeRoot, tmp_path: Path) -> None:
    """Nothing crashes, nothing outside is read, and no name is more than an identifier."""
    root.write(f"{SITE}/good.py")
    (tmp_path.parent / "outside.py").write_text("")
    bad = 'x;import os\n"a\nb",,\n../outside.py,,\n/etc/passwd.py,,\n./good.py,,\ngood.py/,,\n\0,,\n'
    install(root, "record", record=bad, top_level="../outside\nx;y\n\x1b[31m\n" + "z" * 10000)
    install(root, "csv", record='good.py,,\n"' + "x" * 200_000)
    install(
        root, "named", "good.py", metadata="Import-Name: os; print(1)\nImport-Name: a..b\nImport-Name: .\n"
    )
    install(root, "utf8", "good.py")
    root.host(f"{SITE}/utf8-1.0.dist-info/top_level.txt").write_bytes(b"\xff\xfe\ngood\n")
    root.host(f"{SITE}/utf8-1.0.dist-info/METADATA").write_bytes(b"Name: \xff\xfe\nVersion: 1\n 2\n")
    root.write(f"{SITE}/forged-1.0.dist-info/METADATA", "Name: a\n b\nName: evil\x1b[2J\nVersion: 1;\n")
    root.write(f"{SITE}/-1.0.dist-info/METADATA", "")
    root.symlink(f"{SITE}/link-1.0.dist-info/METADATA", "/../../../../etc/passwd")
    root.symlink(f"{SITE}/loop-1.0.dist-info", "loop-1.0.dist-info")
    root.host(f"{SITE}/pipe-1.0.dist-info").mkdir()
    os.mkfifo(root.host(f"{SITE}/pipe-1.0.dist-info/METADATA"))
    asked = []

    def kept(path: str) -> bool:
        asked.append(path)
        return root.is_file(path)

    names = {one.name: (one.version, one.imports) for one in distributions(root, [SITE], kept)}
    assert {os.path.normpath(path) for path in asked} == set(asked)
    assert names == {
        "record": ("1.0", ()),
        "csv": ("1.0", ()),
        "named": ("1.0", ()),
        "utf8": ("1.0", ("good",)),
        "forged": ("1.0", ()),
        "link": ("1.0", ()),
        "loop": ("1.0", ()),
        "pipe": ("1.0", ()),
    }


def test_a_huge_file_is_not_read_whole(root: FakeRoot) -> None:
    """A RECORD of 8 GiB of zeros is cut off, and read in a moment."""
    install(root, "huge", "huge.py")
    with root.host(f"{SITE}/huge-1.0.dist-info/RECORD").open("r+b") as file:
        file.truncate(8 << 30)
    with root.host(f"{SITE}/huge-1.0.dist-info/METADATA").open("r+b") as file:
        file.truncate(8 << 30)
    assert found(root)["huge"].version == "1.0"


def test_agrees_with_importlib_about_this_very_environment() -> None:
    """Of real metadata no module comes that importlib.metadata does not name for the same distribution."""
    site = os.path.realpath(sysconfig.get_path("purelib"))
    ours = {
        (name.partition(".")[0], normalized(one.name))
        for one in found(FakeRoot(Path("/")), site).values()
        for name in one.imports
    }
    theirs = {
        (module, normalized(name))
        for module, names in importlib.metadata.packages_distributions().items()
        for name in names
    }
    assert {("yaml", "pyyaml"), ("pytest", "pytest"), ("mypy", "mypy")} <= ours
    assert ours - theirs == set()
