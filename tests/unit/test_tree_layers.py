"""Layers: which file lies in which, and what does not change where a file lies."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from builder.rules import image_layers
from builder.tree.layers import Placement, layers_of, part
from builder.tree.origin import KINDS, Origin, Origins
from builder.tree.root import Root
from builder.tree.spec import TREE_PATH, Layer, parse_layers

LAYERS = parse_layers(
    [
        {"name": "system", "reason": "", "kinds": ["python"], "origins": ["libgcc_s.so.1"]},
        {"name": "stdlib", "reason": "", "origins": ["standard library"]},
        {"name": "runtime", "reason": "", "files": ["/sandbox/*.pyc"]},
        {"name": "packages", "reason": "", "kinds": ["package", "library"], "parts": 3},
        {"name": "config", "reason": ""},
    ]
)
NAMES = [layer.name for layer in LAYERS]


def named(origins: list[Origin]) -> dict[str, str]:
    return {
        origin.what: NAMES[index] for origin, index in zip(origins, layers_of(origins, LAYERS), strict=True)
    }


PYTHON = Origin("Python 3.13", "python", None, "", needs=(2,))
STDLIB = Origin("standard library", "python", 0, "", needs=(3,))


def test_parts() -> None:
    """A layer of several parts is as many layers, in its place."""
    assert NAMES == ["system", "stdlib", "runtime", "packages-1", "packages-2", "packages-3", "config"]


def test_origins() -> None:
    """A name goes before a kind; what nothing claims lies in the last layer."""
    listed = Origin("/opt", "listed", None, "")
    assert named(
        [Origin("Python 3.13", "python", None, ""), Origin("standard library", "python", 0, ""), listed]
    ) == {
        "Python 3.13": "system",
        "standard library": "stdlib",
        "/opt": "config",
    }


def test_a_library_lies_with_the_lowest_that_needs_it() -> None:
    """By way of another library too, and whatever package needs it besides."""
    without = [
        PYTHON,
        STDLIB,
        Origin("libc.so.6", "library", 0, ""),
        Origin("libssl.so.3", "library", 1, "", needs=(2, 4)),
        Origin("libcrypto.so.3", "library", 3, "", needs=(2,)),
    ]
    found = named(without)
    assert (found["libc.so.6"], found["libssl.so.3"], found["libcrypto.so.3"]) == (
        "system",
        "stdlib",
        "stdlib",
    )
    package = Origin("numpy 2.1", "package", None, "", needs=(2, 3, 4, 6))
    more = named([*without, package, Origin("libstdc++.so.6", "library", 5, "", needs=(2,))])
    assert more.items() > found.items()
    assert more["libstdc++.so.6"] == more["numpy 2.1"]
    assert more["numpy 2.1"].startswith("packages-")


def test_libraries_that_need_each_other() -> None:
    """A circle ends, in the layer of what needs it."""
    found = named(
        [
            Origin("numpy 2.1", "package", None, "", needs=(1,)),
            Origin("liba", "library", 0, "", needs=(2,)),
            Origin("libb", "library", 1, "", needs=(1,)),
        ]
    )
    assert len(set(found.values())) == 1


def test_a_named_library_stays_whoever_needs_it() -> None:
    """One that every image has does not move when a package needs it too."""
    alone = named([Origin("libgcc_s.so.1", "library", None, "")])
    needed = named(
        [Origin("libgcc_s.so.1", "library", 1, ""), Origin("numpy 2", "package", None, "", needs=(0,))]
    )
    assert alone["libgcc_s.so.1"] == needed["libgcc_s.so.1"] == "system"


def test_another_version_is_in_the_same_part() -> None:
    """Nor do other packages move it."""
    names = ["numpy", "pandas", "lxml", "six", "attrs", "idna"]
    before = named([Origin(f"{name} 1.0", "package", None, "") for name in names])
    after = named([Origin(f"{name} 2.0", "package", None, "") for name in names[::-1][:5]])
    assert {name.split()[0]: layer for name, layer in after.items()}.items() <= {
        name.split()[0]: layer for name, layer in before.items()
    }.items()
    assert len(set(before.values())) > 1


def test_capitals_do_not_move_a_package() -> None:
    """A project may write its name in another way in its next version: it is the same one (PEP 503)."""
    names = ["PyYAML", "Jinja2", "NumPy", "Pillow"]
    written, small = (
        list(named([Origin(f"{name} 1.0", "package", None, "") for name in way]).values())
        for way in (names, map(str.lower, names))
    )
    assert written == small


def test_shipped_layers_know_every_kind() -> None:
    """No kind of origin falls into the last layer by oversight, and none is in two."""
    layers = image_layers()
    kinds = [kind for layer in layers for kind in layer.kinds]
    assert set(kinds) == set(KINDS)
    once = {layer.name.rstrip("-0123456789"): layer.kinds for layer in layers}
    assert sorted(kind for kinds in once.values() for kind in kinds) == sorted(KINDS)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The root of an image with a tree of a few files and links."""
    image = tmp_path / "image"
    tree = image / TREE_PATH[1:]
    for name in ("usr/bin/python", "usr/lib/os.py", "packages/numpy/a.py", "opt/data/x"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    (tree / "usr/bin/python").chmod(0o755)
    (tree / "bin").symlink_to("usr/bin")
    (tree / "usr/bin/python3").symlink_to("python")
    (tree / "nowhere").symlink_to("absent")
    (tree / "tmp").mkdir(mode=0o1777)
    (tree / "tmp").chmod(0o1777)
    (image / "sandbox").mkdir()
    (image / "sandbox/entrypoint.pyc").write_text("")
    (image / "sandbox/policy.bpf").write_text("")
    (image / "usr").symlink_to(f"{TREE_PATH[1:]}/usr")
    return image


ORIGINS = Origins(
    (
        Origin("Python 3.13", "python", None, ""),
        Origin("standard library", "python", 0, ""),
        Origin("numpy 2", "package", None, ""),
        Origin("/opt/data", "listed", None, ""),
    ),
    {"/usr/bin/python": 0, "/usr/lib/os.py": 1, "/packages/numpy/a.py": 2, "/opt/data/x": 3},
)


def listing(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): stat.filemode(path.lstat().st_mode)
        for path in sorted(folder.rglob("*"))
    }


def test_parting(image: Path, tmp_path: Path) -> None:
    """Every file is in one layer, links lie with what they lead to, and all together are what there was."""
    before = listing(image)
    place = Placement(LAYERS, ORIGINS, Root(image / TREE_PATH[1:]))
    out = tmp_path / "out"
    part(image, out, place, empty="config", epoch=1000)
    assert not image.exists()
    found = {layer.name: listing(layer) for layer in out.iterdir()}
    where = {path: name for name, paths in found.items() for path, mode in paths.items() if mode[0] != "d"}
    tree = TREE_PATH[1:]
    packages = where.pop(f"{tree}/packages/numpy/a.py")
    assert packages.startswith("packages-")
    assert where == {
        f"{tree}/usr/bin/python": "system",
        f"{tree}/usr/bin/python3": "system",
        f"{tree}/bin": "system",
        f"{tree}/usr/lib/os.py": "stdlib",
        "sandbox/entrypoint.pyc": "runtime",
        f"{tree}/nowhere": "config",
        f"{tree}/opt/data/x": "config",
        "sandbox/policy.bpf": "config",
        "usr": "config",
    }
    assert found["config"][f"{tree}/tmp"] == "drwxrwxrwt"
    together: dict[str, str] = {}
    for paths in found.values():
        assert paths.items() <= before.items()  # with the modes that they had
        together |= paths
    assert together == before
    times = {path.stat().st_mtime for path in out.rglob("*") if path.is_dir() and path.parent != out}
    assert times == {1000}


@pytest.mark.parametrize("order", [1, -1])
def test_a_link_to_a_folder_lies_with_the_lowest_of_it(image: Path, order: int) -> None:
    """In whatever order the files are told."""
    (image / TREE_PATH[1:] / "all").symlink_to("usr")
    (image / TREE_PATH[1:] / "some").symlink_to("usr/lib")
    files = dict(list(ORIGINS.file_origin.items())[::order])
    place = Placement(LAYERS, Origins(ORIGINS.origins, files), Root(image / TREE_PATH[1:]))
    assert place(f"{TREE_PATH}/all") == "system"
    assert place(f"{TREE_PATH}/some") == "stdlib"


def test_one_layer_is_everything(image: Path, tmp_path: Path) -> None:
    """Without any rules nothing is parted."""
    before = listing(image)
    layers = (Layer("root", "everything"),)
    part(image, tmp_path / "out", Placement(layers, ORIGINS, Root(image / TREE_PATH[1:])), "root", 0)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["root"]
    assert listing(tmp_path / "out/root") == before
