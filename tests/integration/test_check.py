"""`sandbox-build check`: whether an image that is there keeps its promises, and what is said where not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.arch import host_arch
from tests.conftest import Result, sandbox_build
from tests.fakeroot import elf
from tests.shop import Shop
from tests.wheels import wheel

ARCH = host_arch().name
CLOSED = f"every file of {ARCH} finds the shared libraries that it needs"


@pytest.fixture
def shop(root: Path, tmp_path: Path) -> Iterator[Shop]:
    """A good image, unpacked, whose report promises one package and one snippet."""
    made = Shop.open(root, tmp_path / "root", host_arch())
    made.add("good", {"good.py": "import json\n", "good_c.so": elf(needed=["libc.so.6"])})
    made.add("skipped", {"skipped.py": "import absent\n"})
    made.write_report(
        "good", "skipped", snippets=[{"code": "print(1)", "output": "1\n"}], skip=["good_c", "skipped"]
    )
    yield made
    shutil.rmtree(made.place.root)


def check_tree(shop: Shop, *arguments: str) -> Result:
    return sandbox_build("check", "--tree", str(shop.place.root), *arguments)


def test_a_built_image(image: Path) -> None:
    """By its archive, and by the folder that it was built into."""
    by_archive = sandbox_build("check", "--image", str(image))
    by_folder = sandbox_build("check", "--output", str(image.parents[1]))
    for result in (by_archive, by_folder):
        assert result.exit_code == 0, result.stderr
        first, second = result.stdout.splitlines()[:2]
        assert first == CLOSED
        assert second.startswith(f"Python works in the jail of {ARCH}, level chroot, with Python 3.")


def test_an_unpacked_image(shop: Shop) -> None:
    """Its root, or the jail tree in it."""
    for folder in (shop.place.root, shop.place.tree):
        result = sandbox_build("check", "--tree", str(folder))
        assert result.exit_code == 0, result.stderr
        first, second, *others = result.stdout.splitlines()
        assert first == CLOSED
        assert second.startswith(f"1 import and 1 snippet work in the jail of {ARCH}")
        assert "not imported, as verify.skip says: good_c, skipped" in others


def test_everything_that_fails_is_told(shop: Shop) -> None:
    """A library that is missing, an import, a snippet: exit code 4, on stderr alone."""
    shop.add("bad", {"bad.py": "import absent\n", "bad_c.so": elf(needed=["libabsent.so.3"])})
    shop.write_report(
        "good", "bad", snippets=[{"code": "print(2)", "output": "1\n"}], skip=["good_c", "bad_c"]
    )
    result = check_tree(shop)
    assert (result.exit_code, result.stdout) == (4, "")
    told = result.stderr[result.stderr.index("error: ") :].splitlines()
    assert told == [
        f"error: {shop.place.root} ({ARCH}): 3 of its promises do not hold:",
        "  libraries: /packages/bad_c.so -> libabsent.so.3 (not found)",
        "    hint: build again, with a base that has libabsent.so.3",
        "  import bad (bad 1.0): ModuleNotFoundError: No module named 'absent'",
        "    hint: add absent to dependencies, or the package that has it; "
        "or leave it out: verify: {skip: [bad]}",
        "  verify.snippets[0]: it printed something else:",
        "    --- expected",
        "    +++ printed",
        "    @@ -1 +1 @@",
        "    -1",
        "    +2",
        "    hint: mend the snippet, or take it out of verify.snippets",
        "hint: mend each as it says there, and build again",
    ]


def test_optional_libraries_may_be_missing(shop: Shop) -> None:
    """As the config that the image was built from says."""
    shop.add("bad", {"bad_c.so": elf(needed=["libcuda.so.1"])})
    shop.write_report("good", skip=["good_c"])
    assert check_tree(shop).exit_code == 4
    shop.write_report("good", skip=["good_c"], optional_libraries=["libcuda.so.*"])
    assert check_tree(shop).exit_code == 0


def test_json(shop: Shop) -> None:
    """All of it as data, whether it holds or not; the exit code is the same."""
    good = check_tree(shop, "--json")
    (one,) = json.loads(good.stdout)
    assert (good.exit_code, one["arch"], one["missing"], one["failures"]) == (0, ARCH, [], [])
    assert one["proof"]["how"] == "jail"
    assert [entry["name"] for entry in one["proof"]["imports"]] == ["good"]
    shop.write_report("skipped")
    bad = check_tree(shop, "--json")
    (one,) = json.loads(bad.stdout)
    assert (bad.exit_code, one["proof"]) == (4, None)
    assert [failure["what"] for failure in one["failures"]] == ["import skipped (skipped 1.0)"]


@pytest.mark.parametrize(
    "broken", ["sandbox/entrypoint.pyc", "sandbox/runtime.json", "usr/bin/python3", "usr/lib/libc.so.6"]
)
def test_a_jail_that_runs_no_python(shop: Shop, broken: str) -> None:
    """Is one of the failures, whatever it is that keeps the interpreter from running."""
    folder, name = broken.rsplit("/", 1)
    for path in (shop.place.root if folder == "sandbox" else shop.place.tree).glob(f"{folder}/**/{name}*"):
        if name == "runtime.json":
            settings = shop.place.settings | {"policy_sha256": "0"}
            path.unlink()
            path.write_text(json.dumps(settings))
        elif not path.is_symlink():
            path.unlink()
    result = check_tree(shop)
    assert result.exit_code == 4, result.stderr
    if name.startswith("libc"):
        assert "  libraries: " in result.stderr
    assert "  the jail: the finished jail does not run Python (exit code " in result.stderr


def test_a_config(tmp_path: Path) -> None:
    """Nothing is built: what its packages lack is told, and nothing where they lack nothing."""
    wheelhouse = tmp_path / "wheels"
    wheelhouse.mkdir()
    for name, soname in (("good", "libc.so.6"), ("bad", "libabsent.so.3")):
        wheel(wheelhouse, name, files={f"{name}.so": elf(needed=[soname])})
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"dependencies: [{name}]\n")
        config = str(tmp_path / name / "config.yaml")
        offline = ("--config", config, "--wheelhouse", str(wheelhouse), "--no-index")
        locked = sandbox_build("lock", *offline)
        assert locked.exit_code == 0, locked.stderr
        result = sandbox_build("check", *offline, "--output", str(tmp_path / "dist"))
        if name == "good":
            assert (result.exit_code, result.stdout) == (0, f"{CLOSED}\n"), result.stderr
        else:
            assert result.exit_code == 4
            assert "  libraries: /packages/bad.so -> libabsent.so.3 (not found)" in result.stderr
    assert not (tmp_path / "dist").exists()


REPORTS: dict[str, object] = {
    "a list": [],
    "nothing in it": {},
    "no architecture of ours": {"arch": ["amd64"]},
    "distributions without names": {"distributions": [{}]},
    "promises without a time": {"promises": {"imports": [], "snippets": [], "skip": []}},
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_that_is_not_ours(name: str, shop: Shop) -> None:
    """Exit code 1 or 2 and a sentence: a report is data of whoever made the image."""
    changed = REPORTS[name]
    path = shop.place.root / "sandbox/report.json"
    report = json.loads(path.read_bytes()) | changed if isinstance(changed, dict) and changed else changed
    path.write_text(json.dumps(report))
    result = check_tree(shop)
    assert result.exit_code in (1, 2)
    assert "report.json is not as we write it" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_image_that_links_to_this_machine(shop: Shop) -> None:
    """Its links are its own: what they lead to here is no image."""
    sandbox = shop.place.root / "sandbox"
    away = shop.place.root.parent / "away"
    sandbox.rename(away)
    sandbox.symlink_to(away)
    assert (sandbox / "report.json").is_file()
    result = check_tree(shop)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "not an image that this version has built" in result.stderr


def test_more_imports_than_anybody_waits_for(shop: Shop) -> None:
    """Their number and the length of a name are bounded."""
    for imports in ([f"module{number}" for number in range(10_001)], ["a" * 1001]):
        shop.write_report(imports=imports)
        result = check_tree(shop)
        assert result.exit_code == 4
        assert "more than 10000 modules to import, or a name of more than 1000 characters" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tree", ".", "--image", "x"], "--image and --tree are both given"),
        (["--tree", "/usr"], "/usr: not an image that this version has built: it has no sandbox/report.json"),
        (["--image", "/absent"], "/absent: no such image"),
        (["--output", "/absent"], f"/absent/{ARCH}/image.tar: no such image"),
    ],
)
def test_usage(arguments: list[str], message: str) -> None:
    """Exit code 2."""
    result = sandbox_build("check", *arguments)
    assert result.exit_code == 2
    assert f"error: {message}" in result.stderr
