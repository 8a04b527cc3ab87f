"""Why each file is in the tree: every file has one origin, and every origin leads back to the config."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from builder.tree.bytecode import Compiler, cache_path
from builder.tree.contents import tree_contents
from builder.tree.origin import Origin, Origins, report_text
from builder.tree.origins import find_origins
from builder.tree.spec import Rule
from builder.tree.write import compile_contents, copy_contents
from tests.fakeroot import LIBRARIES, PYTHON, STDLIB, VERSION, FakeRoot, elf, python_root, spec

SITE = "/usr/lib/python3/dist-packages"


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    """A base with an interpreter, and an empty folder of locked packages."""
    made = python_root(tmp_path / "root")
    made.packages = tmp_path / "packages"
    made.packages.mkdir()
    return made


def install(
    root: FakeRoot,
    name: str,
    files: dict[str, bytes | str],
    requires: Sequence[str] = (),
    *,
    site: str = "/packages",
    record: Sequence[str] | None = None,
) -> None:
    """A distribution as an installer leaves it; `record` stands in place of the files that it has."""
    for path, content in files.items():
        root.write(f"{site}/{path}", content)
    info = f"{name}-1.0.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"]
    lines += [f"Requires-Dist: {requirement}\n" for requirement in requires]
    root.write(f"{site}/{info}/METADATA", "".join(lines) + "\nRequires-Dist: of the description\n")
    listed = [*files, f"{info}/METADATA", f"{info}/RECORD"] if record is None else record
    root.write(f"{site}/{info}/RECORD", os.fsencode("".join(f'"{path}",,\n' for path in listed)))


def origins(root: FakeRoot, **changes: object) -> Origins:
    """The origins of the usual spec's tree, with `changes`."""
    wanted = spec(**changes)
    return find_origins(tree_contents(wanted, root, lambda _: None), root, wanted)


def origin(found: Origins, path: str) -> Origin:
    return found.origins[found.file_origin[path]]


def chain(found: Origins, path: str) -> list[tuple[str, str]]:
    """(what, text) from the origin of `path` to the config."""
    steps: list[tuple[str, str]] = []
    index: int | None = found.file_origin[path]
    while index is not None:
        assert len(steps) < len(found.origins), "goes round in a circle"
        one = found.origins[index]
        steps.append((one.what, one.text))
        index = one.because
    return steps


def test_a_library_leads_through_packages_to_a_line_of_the_config(root: FakeRoot) -> None:
    """Library -> the file that needs it, of a package -> the package that requires it -> the requirement."""
    root.write(f"{LIBRARIES}/libgfortran.so.5.0.0", elf(needed=["libquadmath.so.0"]))
    root.symlink(f"{LIBRARIES}/libgfortran.so.5", "libgfortran.so.5.0.0")
    root.write(f"{LIBRARIES}/libquadmath.so.0", elf())
    fblas = elf(needed=["libgfortran.so.5", "libown.so"], rpath="$ORIGIN")
    install(root, "scipy", {"scipy/__init__.py": "", "scipy/_fblas.so": fblas, "scipy/libown.so": elf()})
    install(root, "scikit-learn", {"sklearn/__init__.py": ""}, ["SciPy>=1.8"])
    found = origins(root, requirements=("scikit-learn",))
    learn = ("scikit-learn 1.0", "dependencies: scikit-learn in config.yaml")
    fortran = ("libgfortran.so.5", "needed by /packages/scipy/_fblas.so")
    scipy = ("scipy 1.0", "required by scikit-learn 1.0")
    assert chain(found, f"{LIBRARIES}/libgfortran.so.5.0.0") == [fortran, scipy, learn]
    assert chain(found, f"{LIBRARIES}/libquadmath.so.0") == [
        ("libquadmath.so.0", f"needed by {LIBRARIES}/libgfortran.so.5.0.0"),
        fortran,
        scipy,
        learn,
    ]
    assert chain(found, "/packages/scipy/_fblas.so") == [scipy, learn]
    kinds = [
        origin(found, path).kind for path in (f"{LIBRARIES}/libquadmath.so.0", "/packages/scipy/_fblas.so")
    ]
    assert kinds == ["library", "package"]
    names = {index: one.what for index, one in enumerate(found.origins)}
    needs = {one.what: [names[index] for index in one.needs] for one in found.origins}
    assert needs["scikit-learn 1.0"] == ["scipy 1.0"]
    assert needs["scipy 1.0"] == ["libgfortran.so.5"]
    assert needs["libgfortran.so.5"] == ["libquadmath.so.0"]


def test_python_is_there_for_itself_and_its_libraries_for_it(root: FakeRoot) -> None:
    """The interpreter, its loader and library are told apart; libc is the interpreter's."""
    found = origins(root)
    program = (f"Python {VERSION}", f"python_path: /usr/bin/{PYTHON} in a test's base")
    assert chain(found, f"/usr/bin/{PYTHON}") == [program]
    assert chain(found, f"{LIBRARIES}/ld-real.so") == [("loader", f"starts /usr/bin/{PYTHON}"), program]
    assert chain(found, f"{STDLIB}/json/__init__.py") == [
        ("standard library", f"what /usr/bin/{PYTHON} imports"),
        program,
    ]
    assert chain(found, f"{LIBRARIES}/libm.so.6.1") == [
        ("libm.so.6", f"needed by /usr/bin/{PYTHON}"),
        program,
    ]
    assert origin(found, f"{LIBRARIES}/libc.so.6").kind == "library"


@pytest.mark.parametrize(
    ("requires", "requirements", "text"),
    [
        (["leaf"], ("top",), "required by top 1.0"),
        (["leaf; python_version < '9'"], ("top",), "required by top 1.0"),
        (["leaf ; extra == 'fast'"], ("top",), "an extra of top 1.0"),
        (["leaf ; extra == 'fast'"], ("top", "leaf"), "dependencies: leaf in config.yaml"),
        (["LEAF[more]>=1"], ("top",), "required by top 1.0"),
        (["other"], ("top",), "in the lock file of config.yaml"),
        (["leaf"], (), "in the lock file of config.yaml"),
    ],
)
def test_why_a_locked_package_is_there(
    root: FakeRoot, requires: list[str], requirements: tuple[str, ...], text: str
) -> None:
    """The config's own requirement first, then who requires it, then an extra, else the lock file."""
    install(root, "Leaf", {"leaf.py": ""})
    install(root, "top", {"top.py": ""}, requires)
    assert origin(origins(root, requirements=requirements), "/packages/leaf.py").text == text


def test_an_extra_explains_only_what_nothing_else_does(root: FakeRoot) -> None:
    """Nor does it count among what the package needs, where another requires the same."""
    install(root, "a", {"a.py": ""}, ["leaf; extra == 'x'", "b"])
    install(root, "b", {"b.py": ""}, ["leaf"])
    install(root, "leaf", {"leaf.py": ""})
    found = origins(root, requirements=("a",))
    assert origin(found, "/packages/leaf.py").text == "required by b 1.0"
    needed = [found.origins[index].what for index in origin(found, "/packages/a.py").needs]
    assert needed == ["b 1.0"]


def test_what_the_base_has_is_there_for_the_base(root: FakeRoot) -> None:
    """Though a locked package requires it too, which is told as a need."""
    install(root, "numpy", {"numpy.py": ""}, site=SITE)
    install(root, "top", {"top.py": ""}, ["numpy"])
    found = origins(root, requirements=("top",))
    assert origin(found, f"{SITE}/numpy.py").text.startswith(f"in {SITE} of ")
    needs = origin(found, "/packages/top.py").needs
    assert [found.origins[index].what for index in needs] == ["numpy 1.0"]


def test_packages_that_require_each_other_end_at_the_config(root: FakeRoot) -> None:
    """A circle of requirements is no circle of reasons."""
    install(root, "a", {"a.py": ""}, ["b"])
    install(root, "b", {"b.py": ""}, ["a"])
    found = origins(root, requirements=("b",))
    assert [what for what, _ in chain(found, "/packages/a.py")] == ["a 1.0", "b 1.0"]


def test_libraries_that_need_each_other_end_at_the_config(root: FakeRoot) -> None:
    """A circle of DT_NEEDED is no circle of reasons."""
    root.write(f"{LIBRARIES}/liba.so", elf(needed=["libb.so"]))
    root.write(f"{LIBRARIES}/libb.so", elf(needed=["liba.so"]))
    install(root, "p", {"p.so": elf(needed=["libb.so"])})
    found = origins(root, requirements=("p",))
    assert [what for what, _ in chain(found, f"{LIBRARIES}/liba.so")] == ["liba.so", "libb.so", "p 1.0"]


def test_metadata_with_a_licence_of_many_paragraphs(root: FakeRoot) -> None:
    """A line of spaces does not end the headers; an empty one does."""
    install(root, "leaf", {"leaf.py": ""})
    install(root, "other", {"other.py": ""})
    install(root, "top", {"top.py": ""})
    text = "Name: top\nVersion: 1.0\nLicense: MIT\n        \n        more\nRequires-Dist: leaf\n"
    root.write("/packages/top-1.0.dist-info/METADATA", f"{text}\nRequires-Dist: other\n")
    found = origins(root, requirements=("top",))
    assert origin(found, "/packages/leaf.py").text == "required by top 1.0"
    assert origin(found, "/packages/other.py").text == "in the lock file of config.yaml"


def test_a_package_cannot_claim_what_is_not_in_its_folder(root: FakeRoot) -> None:
    """RECORD is its author's text: it leads to no file of the base, nor to another's."""
    stolen = [f"../usr/bin/{PYTHON}", f"..{STDLIB}/os.py", "../../../etc/passwd", "honest.py", "thief.py"]
    install(root, "thief", {"thief.py": ""}, record=stolen)
    install(root, "honest", {"honest.py": ""})
    found = origins(root, requirements=("thief", "honest"))
    assert origin(found, f"/usr/bin/{PYTHON}").kind == "python"
    assert origin(found, f"{STDLIB}/os.py").what == "standard library"
    assert origin(found, "/etc/passwd").kind == "supplied"
    assert origin(found, "/packages/honest.py").what == "honest 1.0"


@pytest.mark.parametrize("record", ['"a\n', "\0,,\n", "", "../../..,,\n,,\n", f"{'x' * 200_000},,\n"])
def test_a_damaged_record_leaves_no_file_without_an_origin(root: FakeRoot, record: str) -> None:
    """What nobody claims is said to be so; the package's own notes are its own in any case."""
    install(root, "odd", {"odd.py": ""})
    root.write("/packages/odd-1.0.dist-info/RECORD", record)
    root.write("/packages/stray.txt")
    found = origins(root, requirements=("odd",))
    assert origin(found, "/packages/odd-1.0.dist-info/METADATA").what == "odd 1.0"
    assert chain(found, "/packages/stray.txt") == [
        ("/packages, the rest", "no package of the lock file claims it")
    ]


def test_packages_of_the_base_without_a_record(root: FakeRoot) -> None:
    """Debian's have none: what they import is theirs, the rest of the folder is the folder's."""
    root.write(f"{SITE}/yaml/__init__.py")
    root.write(f"{SITE}/_yaml.so", elf(needed=["libyaml.so.0"]))
    root.write(f"{SITE}/PyYAML-6.0.egg-info/PKG-INFO", "Name: PyYAML\nVersion: 6.0\n")
    root.write(f"{SITE}/PyYAML-6.0.egg-info/top_level.txt", "yaml\n_yaml\n")
    root.write(f"{SITE}/loose.py")
    root.write(f"{LIBRARIES}/libyaml.so.0", elf())
    found = origins(root)
    python = (f"Python {VERSION}", f"python_path: /usr/bin/{PYTHON} in a test's base")
    where = f"in {SITE} of a test's base, where /usr/bin/{PYTHON} looks"
    assert chain(found, f"{SITE}/yaml/__init__.py") == [("PyYAML 6.0", where), python]
    assert chain(found, f"{LIBRARIES}/libyaml.so.0")[1] == ("PyYAML 6.0", where)
    assert chain(found, f"{SITE}/loose.py") == [(f"{SITE}, the rest", where), python]
    assert origin(found, f"{SITE}/loose.py").kind == "base-package"


def test_what_the_config_lists(root: FakeRoot) -> None:
    """The deepest line that names it; packages in a listed folder are told apart."""
    root.write("/opt/lib/data.bin")
    root.write("/opt/lib/deep/more.bin")
    root.write("/opt/conda/site-packages/stray.py")
    install(root, "six", {"six.py": ""}, site="/opt/conda/site-packages")
    root.packages = None
    listed = ("/opt/lib", "/opt/lib/deep", "/opt/conda/site-packages", "/opt/lib")
    found = origins(root, python_lib_path=listed)
    assert chain(found, "/opt/lib/data.bin") == [("/opt/lib", "python_lib_path[0] in config.yaml")]
    assert chain(found, "/opt/lib/deep/more.bin") == [("/opt/lib/deep", "python_lib_path[1] in config.yaml")]
    assert origin(found, "/opt/conda/site-packages/stray.py").kind == "listed"
    [(what, text)] = chain(found, "/opt/conda/site-packages/six.py")
    assert (what, origin(found, "/opt/conda/site-packages/six.py").kind) == ("six 1.0", "base-package")
    assert text == "in /opt/conda/site-packages, which python_lib_path[2] in config.yaml names"


def test_rules_and_our_own_files(root: FakeRoot) -> None:
    """A rule's reason; what each file that the base lacks is for; a module that we add to stays Python's."""
    root.write("/usr/share/zoneinfo/Etc/UTC")
    root.write(f"{STDLIB}/ctypes/util.py", "x = 1\n")
    root.write(f"{LIBRARIES}/libnss_x.so.2", elf())
    root.write(f"{LIBRARIES}/gconv/UTF-7.so", elf(needed=["libc.so.6"]))
    root.write(f"{LIBRARIES}/gconv/gconv-modules", "alias")
    found = origins(
        root,
        system_files=(Rule("/usr/share/zoneinfo", "time zones"),),
        libraries=(Rule("libnss_x.so.2", "names"), Rule("gconv", "converters", beside="libc.so.*")),
        added={"{stdlib}/ctypes/util.py": "y = 2\n"},
    )
    assert chain(found, "/usr/share/zoneinfo/Etc/UTC") == [("/usr/share/zoneinfo", "time zones")]
    assert chain(found, f"{LIBRARIES}/libnss_x.so.2") == [("libnss_x.so.2", "names")]
    assert chain(found, f"{LIBRARIES}/gconv/UTF-7.so") == [("gconv", "converters")]
    assert chain(found, f"{LIBRARIES}/gconv/gconv-modules") == [("gconv", "converters")]
    assert origin(found, f"{STDLIB}/ctypes/util.py").what == "standard library"
    [(_, text)] = chain(found, "/etc/ld.so.cache")
    assert "ctypes.util.find_library" in text
    assert origin(found, "/etc/passwd").kind == "supplied"


def test_what_a_link_leads_to_belongs_to_the_link(root: FakeRoot) -> None:
    """Debian's packages have data elsewhere; it came for their sake."""
    root.write("/usr/share/javascript/jquery/jquery.js")
    install(root, "web", {"web/__init__.py": ""}, site=SITE, record=["web/__init__.py", "web/static"])
    root.symlink(f"{SITE}/web/static", "/usr/share/javascript/jquery")
    assert origin(origins(root), "/usr/share/javascript/jquery/jquery.js").what == "web 1.0"


def test_every_file_of_a_finished_tree_is_in_the_report(root: FakeRoot, tmp_path: Path) -> None:
    """Copies, bytecode and our own texts, each with its bytes; links apart. The sum is the tree's."""
    install(
        root, "p", {"p/__init__.py": "x = 1\n", "p/table.py": "y = 2\n", "p/bad.py": "(", "p/d\udcff": "z"}
    )
    root.symlink(f"{STDLIB}/linked.py", "os.py")
    wanted = spec(requirements=("p",), sourceless=(Rule("/packages/p/table.py", "a table"),))
    found = tree_contents(wanted, root, lambda _: None)
    tree = tmp_path / "tree"
    copy_contents(found, root, tree, 0, lambda _: None)
    compile_contents(found, root, tree, 0, lambda _: None, Compiler())
    report = find_origins(found, root, wanted).to_report(tree)
    sizes = [path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    assert report["totals"] == {"files": len(sizes), "bytes": sum(sizes)}
    entries = {f"{folder}/{entry[0]}": entry for folder, files in report["files"].items() for entry in files}
    assert sum(len(entry) - 2 for entry in entries.values()) == report["totals"]["files"]
    assert sum(sum(entry[1::2]) for entry in entries.values()) == report["totals"]["bytes"]
    package = entries["/packages/p/__init__.py"]
    assert package[1] == len("x = 1\n")
    assert package[3] == (tree / cache_path("packages/p/__init__.py")).stat().st_size
    names = {path.rpartition("/")[2] for path in entries if path.startswith("/packages/p/")}
    assert names == {"__init__.py", "table.pyc", "bad.py", "d\udcff"}
    assert {report["origins"][entries[f"/packages/p/{name}"][2]]["what"] for name in names} == {"p 1.0"}
    assert ["linked.py", "os.py"] in report["links"][STDLIB]
    assert f"{STDLIB}/{cache_path('linked.py')}" in entries
    assert json.loads(report_text(report)) == report


def test_the_same_tree_has_the_same_report(root: FakeRoot) -> None:
    """Whatever order sets come in: two processes with other hashes agree to the byte."""
    for name, requires in (("a", ["b", "c"]), ("b", ["d"]), ("c", ["d"]), ("d", [])):
        root.write(f"{LIBRARIES}/lib{name}.so", elf(needed=["libc.so.6"]))
        install(
            root, name, {f"{name}.py": "", f"{name}.so": elf(needed=["liba.so", f"lib{name}.so"])}, requires
        )
    code = f"""
from pathlib import Path
from tests.unit.test_tree_origins import FakeRoot, origins
root = FakeRoot(Path({str(root.directory)!r}), Path({str(root.packages)!r}))
found = origins(root, requirements=("a",))
print(found.origins, sorted(found.file_origin.items()))
"""
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


def test_a_report_is_small_for_its_files() -> None:
    """1,600 files fit into 15 kB: 800 modules with words for names, each with bytecode."""
    chance = random.Random(3)
    parts = (
        "json",
        "http",
        "client",
        "server",
        "proto",
        "io",
        "base",
        "util",
        "core",
        "parse",
        "time",
        "string",
    )
    files = {
        f"/usr/lib/python3.13/{chance.choice(parts)}{folder}": [
            [f"{'_'.join(chance.sample(parts, 2))}.py", chance.randrange(90_000), 2, chance.randrange(90_000)]
            for _ in range(20)
        ]
        for folder in range(40)
    }
    text = report_text({"files": files, "origins": []})
    assert json.loads(text) == {"files": files, "origins": []}
    assert len(gzip.compress(text.encode())) < 15_000
