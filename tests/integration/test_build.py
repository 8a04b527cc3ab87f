"""`sandbox-build` from its command line to a finished image: what is in it, what both drivers agree on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import docker
import pytest
import yaml
from docker.errors import ImageNotFound
from elftools.elf.elffile import ELFFile

from builder.arch import ARCHES, host_arch
from builder.archive import open_archive
from builder.drivers.docker import find_client
from builder.tree.spec import TREE_PATH
from tests.conftest import IMAGE, Place, Result, interpreter, result_of, sandbox_build

OWN = host_arch().name
OTHER = next(name for name in ARCHES if name != OWN)
BY_DOCKER = f"sandbox-tests/by-docker:{os.getpid()}"


def built(
    output: Path, *arguments: str, config: str | None = None, env: dict[str, str] | None = None
) -> Result:
    """A build into `output` by the oci driver, unless `arguments` say otherwise."""
    options = ["--output", str(output), *(() if "--driver" in arguments else ("--driver", "oci"))]
    if config is not None:
        path = output.parent / f"{output.name}.yaml"
        path.write_text(config)
        options += ["--config", str(path)]
    return sandbox_build(*options, *arguments, env=env)


def succeeded(result: Result) -> str:
    """The digest that a build printed, alone on stdout."""
    assert result.exit_code == 0, result.stderr
    reference, _, digest = result.stdout.strip().partition("@")
    assert reference
    assert digest.startswith("sha256:")
    return digest


def entries(archive: Path) -> dict[str, tuple[object, ...]]:
    """Everything that the image's layers, laid over each other, say of each path."""
    found: dict[str, tuple[object, ...]] = {}
    with open_archive(archive) as image:
        for layer in image.layers:
            with image.blob(layer) as blob, tarfile.open(fileobj=blob, mode="r|gz") as tar:
                for entry in tar:
                    content = tar.extractfile(entry) if entry.isreg() else None
                    digest = hashlib.sha256(content.read()).hexdigest() if content else ""
                    facts = (
                        entry.type,
                        oct(stat.S_IMODE(entry.mode)),
                        entry.uid,
                        entry.gid,
                        entry.mtime,
                        entry.linkname,
                        digest,
                    )
                    found[entry.name.rstrip("/")] = facts
    return found


@pytest.fixture(scope="module")
def by_docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The shipped config's image, as Docker Engine builds it: what is below --output."""
    output = tmp_path_factory.mktemp("by-docker")
    succeeded(built(output, "--driver", "docker", "--tag", BY_DOCKER))
    yield output / OWN
    result_of(["docker", "image", "rm", "--force", BY_DOCKER], None, 60)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped config's image for the other architecture: what is below --output."""
    output = tmp_path_factory.mktemp("foreign")
    result = built(output, "--arch", OTHER)
    succeeded(result)
    # What this machine can do of it, which depends on whether an emulator is registered.
    assert f"nothing of {OTHER} was run" in result.stderr or f"the tree of {OTHER}, through" in result.stderr
    return output / OTHER


# What is in it


def test_both_drivers(image: Path, by_docker: Path) -> None:
    """Both drivers give the same files: kinds, modes, owners, dates, link targets and contents."""
    ours, theirs = entries(image), entries(by_docker / "image.tar")
    assert len(ours) > 1000
    assert {
        name: (facts, theirs.get(name)) for name, facts in ours.items() if theirs.get(name) != facts
    } == {}
    assert set(theirs) == set(ours)


def test_kinds(image: Path) -> None:
    """The image holds root's folders, files and symlinks: no device, hard link, setuid or open folder."""
    for name, (kind, mode, uid, gid, *_) in entries(image).items():
        bits = int(str(mode), 8)
        assert kind in (tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE), name
        assert not bits & (stat.S_ISUID | stat.S_ISGID), name
        assert (uid, gid) == (0, 0), name
        if kind != tarfile.SYMTYPE and name != "tmp":
            assert not bits & 0o022, name
            assert bits & 0o444 == 0o444, name


def test_links(root: Path) -> None:
    """No symlink of the tree leads out of it or nowhere, seen from the jail's root as from the image's."""
    tree = Path(f"{root}{TREE_PATH}")
    links = [path for path in tree.rglob("*") if path.is_symlink()]
    assert links
    for link in links:
        for top in (tree, root):
            here = PurePosixPath("/") / link.relative_to(tree).parent
            target = os.path.normpath(here / link.readlink())
            assert Path(f"{top}{target}").exists(), f"{link} -> {link.readlink()}"


def test_inodes(root: Path) -> None:
    """No file of the unpacked tree shares its inode with another one."""
    assert [path for path in root.rglob("*") if path.is_file() and path.lstat().st_nlink != 1] == []


@pytest.mark.parametrize(
    "unwanted",
    [
        *(
            "*.a",
            "*.h",
            "*.o",
            "*.exe",
            "test",
            "tests",
            "idlelib",
            "pip",
            "ensurepip",
            "lib2to3",
            "pydoc_data",
        ),
        *("turtledemo", "tkinter", "man", "doc", "locale", "sh", "bash", "apt", "dpkg", "shadow"),
    ],
)
def test_not_in_it(unwanted: str, root: Path) -> None:
    """What no code needs at run time, or an attacker would like, is not in the image."""
    assert list(root.rglob(unwanted)) == []


def test_in_it(root: Path, outside: Place) -> None:
    """Each module of the standard library but the frozen ones has bytecode, unchecked."""
    tree = Path(f"{root}{TREE_PATH}")
    stdlib = next(tree.glob("usr/lib/python3.*/"))
    sources = [path for path in stdlib.rglob("*.py") if "lib2to3" not in path.parts]
    assert len(sources) > 300
    bare = []
    for source in sources:
        compiled = list((source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc"))
        if not compiled:
            bare.append(".".join(source.relative_to(stdlib).with_suffix("").parts).removesuffix(".__init__"))
            continue
        assert len(compiled) == 1, source
        # PEP 552: bit 0 says hash-based, bit 1 says to check the source.
        assert int.from_bytes(compiled[0].read_bytes()[4:8], "little") == 0b01, source
    frozen = outside.run(f"import _imp; print([name for name in {bare} if not _imp.is_frozen(name)])")
    assert (len(bare) < 30, frozen.stdout) == (True, "[]\n"), frozen


def test_other_architecture(foreign: Path, image: Path) -> None:
    """An image for the other architecture has no ELF file but that one's, and the same Python files."""
    machines = set()
    ours = entries(image)
    with open_archive(foreign / "image.tar") as archive:
        assert archive.platform == {"os": "linux", "architecture": OTHER}
        for layer in archive.layers:
            with archive.blob(layer) as blob, tarfile.open(fileobj=blob, mode="r|gz") as tar:
                for entry in tar:
                    file = tar.extractfile(entry) if entry.isreg() else None
                    content = file.read() if file else b""
                    if content.startswith(b"\x7fELF"):
                        machines.add(ELFFile(io.BytesIO(content))["e_machine"])
                    elif entry.name.endswith(".pyc") and "_sysconfigdata" not in entry.name:
                        assert ours[entry.name][-1] == hashlib.sha256(content).hexdigest(), entry.name
    assert machines == {{"arm64": "EM_AARCH64", "amd64": "EM_X86_64"}[OTHER]}


# What takes it


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_skopeo(transport: str, image: Path, by_docker: Path, foreign: Path) -> None:
    """skopeo, and podman with it, reads each archive in both of its forms."""
    for path, arch in ((image, OWN), (by_docker / "image.tar", OWN), (foreign / "image.tar", OTHER)):
        shown = result_of(["skopeo", "inspect", f"{transport}:{path}"], None, 60)
        assert shown.exit_code == 0, shown.stderr
        assert (json.loads(shown.stdout)["Architecture"], json.loads(shown.stdout)["Os"]) == (arch, "linux")


def test_docker_load(loaded_image: str) -> None:
    """`docker load` takes the archive under its name, and code runs in it."""
    command = ["docker", "run", "--rm", "--interactive", "--network=none", loaded_image]
    assert result_of(command, "print(6 * 7)", 60) == Result(0, "42\n", "")


def test_plain_docker_build(image: Path) -> None:
    """The context builds with `docker build` alone, to an image in which code runs."""
    name = f"sandbox-tests/plain:{os.getpid()}"
    context = str(image.parent / "context")
    env = os.environ | {"DOCKER_BUILDKIT": "1"}
    subprocess.run(
        [find_client().path, "build", "--tag", name, context], env=env, check=True, capture_output=True
    )
    try:
        run = result_of(["docker", "run", "--rm", "--network=none", name, "-c", "print(6 * 7)"], None, 60)
    finally:
        result_of(["docker", "image", "rm", "--force", name], None, 60)
    assert run == Result(0, "42\n", "")


def test_image_as_base(image: Path, root: Path, engine: docker.DockerClient, tmp_path: Path) -> None:
    """An image that the engine has is a base too: the Dockerfile says FROM, and `auto` takes Docker."""
    name, result = (f"sandbox-tests/{role}:{os.getpid()}" for role in ("base", "of-image"))
    assert (
        result_of(["docker", "import", str(image.parent / "context/target.tar"), name], None, 60).exit_code
        == 0
    )
    try:
        config = f"base: {name}\npython_path: {interpreter(root)[0]}\n"
        done = built(tmp_path / "dist", "--driver", "auto", "--tag", result, config=config)
        succeeded(done)
        assert "driver docker, the base is an image" in done.stderr
        assert f" {name} AS target\n" in (tmp_path / "dist" / OWN / "context/Dockerfile").read_text()
    finally:
        for made in (name, result):
            with suppress(ImageNotFound):
                engine.images.remove(made, force=True)


def test_host_as_base(tmp_path: Path) -> None:
    """This machine's own interpreter is a base: its image runs code, and has the version that runs us."""
    output = tmp_path / "dist"
    # Without its packages: a developer's machine may have a gigabyte of them.
    succeeded(built(output, config="base: host\npython_lib_path: []\n"))
    code = "import sys, json, ssl, sqlite3; print(sys.version)"
    run = sandbox_build("run", "--output", str(output), "-c", code)
    assert (run.exit_code, run.stdout) == (0, f"{sys.version}\n"), run.stderr


# Once more


def test_unchanged(tmp_path: Path) -> None:
    """A second build says that nothing changed and gives the same digest; --no-cache builds the same again;
    a damaged archive, a damaged file beside it, or another config, is built anew.
    """
    output = tmp_path / "dist"
    first = built(output)
    digest = succeeded(first)
    archive = output / OWN / "image.tar"
    written = archive.stat().st_mtime_ns
    again = built(output)
    assert (succeeded(again), "nothing changed" in again.stderr) == (digest, True)
    assert archive.stat().st_mtime_ns == written

    forced = built(output, "--no-cache")
    assert (succeeded(forced), "nothing changed" in forced.stderr) == (digest, False)
    assert "choosing packages" in forced.stderr
    assert archive.stat().st_mtime_ns != written

    with archive.open("r+b") as file:
        file.truncate(9999)
    mended = built(output)
    assert (succeeded(mended), "nothing changed" in mended.stderr) == (digest, False)

    for lost in ("report.json", "context/policy.bpf", "sbom.spdx.json"):
        (output / OWN / lost).write_text("{")
        mended = built(output)
        assert (succeeded(mended), "nothing changed" in mended.stderr) == (digest, False)

    other = built(output, config="limits: {cpu_s: 11}\n")
    assert succeeded(other) != digest


def test_two_architectures(tmp_path: Path) -> None:
    """--arch twice gives two folders, and --json says what was built in them."""
    output = tmp_path / "dist"
    done = built(
        output, "--arch", "amd64", "--arch", "arm64", "--arch", "amd64", "--json", "--tag", "a.example/b:c"
    )
    assert done.exit_code == 0, done.stderr
    shown: list[dict[str, Any]] = json.loads(done.stdout)["images"]
    assert [one["arch"] for one in shown] == ["amd64", "arm64"]
    for one in shown:
        assert Path(one["archive"]) == output / one["arch"] / "image.tar"
        assert one["name"] == f"a.example/b:c@{one['digest']}"
    assert sorted(path.name for path in output.iterdir()) == ["amd64", "arm64"]


# What else is said


@pytest.mark.parametrize("arch", sorted(ARCHES))
def test_render(arch: str, image: Path, foreign: Path) -> None:
    """`render` prints the very Dockerfile that a build writes."""
    rendered = sandbox_build("render", "--arch", arch, "--tag", IMAGE)
    folder = image.parent if arch == OWN else foreign
    assert rendered == Result(0, (folder / "context/Dockerfile").read_text(), "")


def test_show_config() -> None:
    """`show-config` prints the same as YAML and as JSON, and with --schema what an editor completes from."""
    shown, as_json, schema = (
        sandbox_build("show-config", *options, env={"MAX_WORKERS": "7"})
        for options in ([], ["--json"], ["--schema"])
    )
    assert yaml.safe_load(shown.stdout) == json.loads(as_json.stdout)
    assert json.loads(as_json.stdout)["max_workers"] == 7
    assert set(json.loads(as_json.stdout)) == set(json.loads(schema.stdout)["properties"])


def test_doctor() -> None:
    """On a machine that passes these tests, `doctor` finds no lack that a build would meet, in both forms."""
    text, as_json = sandbox_build("doctor"), sandbox_build("doctor", "--json")
    assert (text.exit_code, as_json.exit_code) == (0, 0), text.stdout + text.stderr
    findings = {finding["name"]: finding for finding in json.loads(as_json.stdout)}
    for name in ("architecture", "seccomp", "libseccomp", "mmdebstrap", "Docker Engine", "BuildKit client"):
        assert findings[name]["ok"], findings[name]
        assert f"ok   {name}: {findings[name]['found']}\n" in text.stdout


def test_doctor_names_lacks(tmp_path: Path) -> None:
    """Each lack comes with what it is needed for and what to do; with these, some builds are possible."""
    done = sandbox_build("doctor", env={"PATH": str(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/none"})
    assert done.exit_code == 0, done.stderr
    assert (
        "LACK mmdebstrap: not installed\n       needed for: base: debian:*\n       hint: apt-get"
        in done.stdout
    )
    assert f"LACK Docker Engine: no Docker Engine answers at unix://{tmp_path}/none\n" in done.stdout
