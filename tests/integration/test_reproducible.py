"""The same config and the same packages are the same image, whoever builds it, where, and how."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.arch import ARCHES, host_arch
from tests.conftest import REPOSITORY, result_of, sandbox_build
from tests.integration.circumstances import Build, Maker, compared, copy_checkout
from tests.integration.projects import Project
from tests.wheels import wheel

OWN = host_arch().name

UMASK = ("sh", "-c", 'umask "$0" && exec "$@"')
OTHER_USER = (
    *("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"),
    # The interpreter that runs us may lie in a folder of root's.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
OTHER_HOST = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere.example && exec "$@"', "sh")
ONE_PROCESSOR = ("taskset", "--cpu-list", str(min(os.sched_getaffinity(0))))
ELSEWHEN = {
    "TZ": "Pacific/Kiritimati",
    "LC_ALL": "C",
    "LANG": "tr_TR.ISO-8859-9",
    # Python would have UTF-8 for its file names all the same.
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "PYTHONHASHSEED": "7",
    "HOME": "/nonexistent",
    "COLUMNS": "20",
}


@pytest.fixture(scope="module")
def maker() -> Iterator[Maker]:
    """What the builds share: a cache of what came from Debian, which the first one fetches."""
    with tempfile.TemporaryDirectory(prefix="reproducible-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # pytest's own folders let no other user in
        (folder / "fetched/sandbox-build").mkdir(parents=True)
        yield Maker(folder, folder / "fetched")


@pytest.fixture(scope="module")
def plain(maker: Maker) -> Build:
    """The images for both architectures as this machine's own user builds them."""
    (maker.folder / "plain").mkdir()
    env = {"XDG_CACHE_HOME": str(maker.fetched)}
    return maker.build(maker.folder / "plain", env=env)


def assert_same(before: Build, after: Build, *arches: str) -> None:
    """The images for `arches` are the same, and so is all else that lies beside them."""
    for arch in arches:
        result = compared(before, after, arch)
        assert result.exit_code == 0, result.stdout + result.stderr
        assert after.files(arch) == before.files(arch)


# Who, where, when


def test_open_umask(plain: Build, maker: Maker) -> None:
    """With a umask that takes nothing away, on a single processor."""
    place = maker.place("open")
    assert_same(plain, maker.build(place, arches=[OWN], before=[*UMASK, "000", *ONE_PROCESSOR]), OWN)


def test_another_user(plain: Build, maker: Maker) -> None:
    """A user who is not root, with a umask that takes all away and a home and a cache of his own."""
    place = maker.place("user", owner=1000)
    made = maker.build(place, before=[*OTHER_USER, *UMASK, "077"], env={"HOME": str(place)})
    assert (place / "dist" / OWN / "image.tar").stat().st_uid == 1000
    assert_same(plain, made, *ARCHES)


def test_another_place_and_time(plain: Build, maker: Maker) -> None:
    """Another host name, time zone, language, hash seed, home and folder; the image has another name."""
    place = maker.place("a place whose name has blanks, and is longer")
    made = maker.build(place, "--tag=other.example/name:v2", arches=[OWN], before=OTHER_HOST, env=ELSEWHEN)
    assert_same(plain, made, OWN)


def test_another_checkout(plain: Build, maker: Maker) -> None:
    """The sources in another folder, written in another order, with other dates and modes."""
    place = maker.place("checkout")
    checkout = copy_checkout(place / "sources/of/sandbox-build")
    assert_same(plain, maker.build(place, arches=[OWN], checkout=checkout), OWN)


def test_another_file_system(plain: Build, maker: Maker) -> None:
    """On a tmpfs, which lists a folder's files in another order."""
    place, outside = maker.place("tmpfs"), maker.folder / "outside"
    outside.mkdir()
    script = """
        place=$0 outside=$1; shift
        mount --bind "$place" "$outside" && mount -t tmpfs tmpfs "$place" || exit 99
        cp -r "$outside/cache" "$place" && mkdir "$place/tmp" || exit 99
        ls -U "$place/cache/sandbox-build/debs" > "$outside/listed"
        "$@" && cp -r "$place/dist" "$outside"
    """
    before = ("unshare", "--mount", "sh", "-c", script, str(place), str(outside))
    made = maker.build(place, arches=[OWN], before=before, env={"TMPDIR": f"{place}/tmp"})
    debs = [path.name for path in (place / "cache/sandbox-build/debs").iterdir()]
    listed = (place / "listed").read_text().split()
    assert (sorted(listed), listed != debs) == (sorted(debs), True)
    assert_same(plain, made, OWN)


def test_another_driver(plain: Build, maker: Maker) -> None:
    """Docker's BuildKit gives what our own driver gives, to the last byte."""
    name = f"sandbox-tests/reproducible:{os.getpid()}"
    try:
        made = maker.build(maker.place("docker"), f"--tag={name}", before=[*UMASK, "077"], driver="docker")
    finally:
        result_of(["docker", "image", "rm", "--force", name], None, 60)
    assert_same(plain, made, *ARCHES)


# What the date is for


def test_the_date_of_a_later_commit(plain: Build, maker: Maker) -> None:
    """SOURCE_DATE_EPOCH dates the image, and no file: every layer stays as it is."""
    (maker.folder / "later").mkdir()
    env = {"SOURCE_DATE_EPOCH": "1800000000", "XDG_CACHE_HOME": str(maker.fetched)}
    made = maker.build(maker.folder / "later", arches=[OWN], env=env)
    told = sandbox_build("compare", "--json", f"{plain.output}/{OWN}", f"{made.output}/{OWN}")
    assert told.exit_code == 1
    (image,) = json.loads(told.stdout)["images"]
    assert {one["after"] for one in image["differences"]} == {'"2027-01-15T08:00:00Z"'}
    assert {one["where"] for one in image["differences"]} == {"config"}
    assert [one["what"] for one in image["sent"]] == ["manifest", "config"]


# Locked packages


@pytest.fixture
def project(maker: Maker) -> Project:
    """Two packages, with names that are not ASCII in them."""
    made = Project(maker.folder / "project", maker.folder / "project/wheels")
    made.wheels.mkdir(parents=True)
    files = {"alpha/__init__.py": b"", "alpha/gr\u00f6\u00dfe.py": b"", "alpha/\u65e5\u672c.txt": b"1"}
    wheel(made.wheels, "alpha", files=dict(files), requires=["beta"])
    wheel(made.wheels, "beta", files={f"beta_{number}.py": b"X = {'a', 'b', 'c'}" for number in range(20)})
    made.write("dependencies: [alpha]")
    return made


def test_locked_packages(project: Project, maker: Maker, plain: Build) -> None:
    """The lock is the same file, and the image with its packages the same, for another user elsewhere."""
    assert plain.output.is_dir()  # what it fetched is there
    offline = (f"--wheelhouse={project.wheels}", "--no-index")
    arches = [f"--arch={name}" for name in ARCHES]
    locks = []
    for env in ({}, ELSEWHEN):
        cache_env = {"XDG_CACHE_HOME": str(maker.fetched)}
        done = sandbox_build("lock", f"--config={project.config}", *arches, *offline, env=cache_env | env)
        assert done.exit_code == 0, done.stderr
        locks.append(project.config.with_suffix(".lock").read_bytes())
        project.config.with_suffix(".lock").unlink()
    assert locks[0] == locks[1]
    project.config.with_suffix(".lock").write_bytes(locks[0])
    options = (f"--config={project.config}", *offline)
    ours = maker.build(maker.place("locked"), *options)
    place = maker.place("locked elsewhere", owner=1000)
    before = (*OTHER_HOST, *OTHER_USER, *UMASK, "077", *ONE_PROCESSOR)
    assert_same(
        ours, maker.build(place, *options, before=before, env=ELSEWHEN | {"HOME": str(place)}), *ARCHES
    )


# The controls


def test_what_depends_on_circumstances_is_found(plain: Build, maker: Maker) -> None:
    """Sources that leave modes and dates to the machine, and one more line: each is found, and named."""
    place = maker.place("leaking")
    checkout = copy_checkout(place / "sources")
    for source, line in (("tree/write.py", "    path.chmod(mode)\n"), ("layers.py", "entry.mtime = epoch\n")):
        path = checkout / "builder" / source
        without = path.read_text().replace(line, line.replace(line.strip(), "pass"))
        assert without != path.read_text()
        path.write_text(without)
    with (checkout / "runtime/facts.py").open("a") as file:
        file.write("# one more line\n")
    made = maker.build(place, arches=[OWN], before=[*UMASK, "077"], checkout=checkout)
    told = sandbox_build("compare", "--json", f"{plain.output}/{OWN}", f"{made.output}/{OWN}")
    assert told.exit_code == 1, told.stderr
    (image,) = json.loads(told.stdout)["images"]
    found = {(one["path"], one["what"]): one for one in image["differences"]}
    facts = "sandbox/runtime/facts.pyc"
    assert [found[facts, "mode"][side] for side in ("before", "after")] == ["0644", "0600"]
    assert found[facts, "mtime"]["before"] == "1735689600"
    assert found[facts, "content"]["why"].startswith("the hash of the source differs")


# What is compiled


LEAK = '__attribute__((used, visibility("default"))) const char sandbox_build_where[] = __FILE__;'


def test_natives(tmp_path: Path) -> None:
    """The runtime's C, compiled in another checkout, is what it is in this one, byte for byte."""
    ours = natives(REPOSITORY)
    assert len(ours) == 2 * len(ARCHES)
    # Another text: the compiler keeps what it made of this one.
    made = compiled(tmp_path / "another checkout/of it", f"/* {tmp_path} */")
    different = [name for name, content in ours.items() if made[name] != content]
    assert different == [], "compiled from other sources? `pip install --editable .` compiles them again"


def test_natives_with_a_path(tmp_path: Path) -> None:
    """The control: a source that names its own path is compiled to other bytes, in which the path is."""
    checkout = tmp_path / "another checkout"
    made = compiled(checkout, LEAK)
    for name, content in natives(REPOSITORY).items():
        assert (made[name] != content, str(checkout).encode() in made[name]) == (True, True), name


def natives(checkout: Path) -> dict[str, bytes]:
    """What is compiled in `checkout`, for both architectures."""
    folder = checkout / "runtime/native"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def compiled(checkout: Path, line: str) -> dict[str, bytes]:
    """The natives of a copy of the sources, each of which has one more line, compiled as pip does."""
    copy_checkout(checkout)
    shutil.copyfile(REPOSITORY / "hatch_build.py", checkout / "hatch_build.py")
    shutil.rmtree(checkout / "runtime/native")
    for source in (checkout / "runtime").glob("*.c"):
        source.write_text(f"{source.read_text()}\n{line}\n")
    code = (
        "import sys; from hatch_build import NativeHook;"
        "NativeHook(sys.argv[1], {}, None, None, sys.argv[1], 'wheel').initialize('', {'artifacts': []})"
    )
    command = ["sh", "-c", 'umask 077 && exec "$@"', "sh", sys.executable, "-c", code, str(checkout)]
    env = os.environ | {"TZ": "Pacific/Kiritimati", "SOURCE_DATE_EPOCH": "1"}
    subprocess.run(command, check=True, cwd=checkout, env=env)
    return natives(checkout)
