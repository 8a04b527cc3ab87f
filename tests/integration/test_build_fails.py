"""Builds that cannot be: each with its exit code, what to do next, and nothing half-made left behind."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

from builder.arch import ARCHES, host_arch
from tests.conftest import REPOSITORY, Result, sandbox_build
from tests.integration.servers import wait_for

OWN = host_arch().name
OTHER = next(name for name in ARCHES if name != OWN)
NO_DOCKER = {"DOCKER_HOST": "unix:///none/docker.sock"}
OLD = "what an earlier build left"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output folder with the image of an earlier build in it."""
    folder = tmp_path / "dist"
    (folder / OWN).mkdir(parents=True)
    (folder / OWN / "image.tar").write_text(OLD)
    return folder


def left_as_it_was(output: Path) -> bool:
    """Whether nothing is in `output` but the earlier build's image, and the lock file."""
    found = {str(path.relative_to(output)) for path in output.rglob("*")}
    return found == {OWN, f"{OWN}/image.tar"} and (output / OWN / "image.tar").read_text() == OLD


@pytest.fixture
def nothing_stays(engine: docker.DockerClient, tmp_path: Path) -> Iterator[None]:
    """After the test there is no new container, and no image, mount or process of the test's."""

    def kept() -> set[str | None]:
        tags = {tag for image in engine.images.list() for tag in image.tags}
        ours = {tag for tag in tags if tag.startswith("sandbox-build:") or tag.endswith(f":{os.getpid()}")}
        return ours | {container.id for container in engine.containers.list(all=True)}

    before = kept()
    yield
    wait_for(lambda: kept() <= before)
    wait_for(lambda: not processes_about(tmp_path))
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


# What cannot be built


@dataclass(frozen=True)
class Refusal:
    """A call that is refused, and how."""

    exit_code: int
    stderr: str
    """A pattern for all of it, but for the notes that come before."""
    config: str = ""
    arguments: tuple[str, ...] = ("--driver", "oci")
    env: dict[str, str] = field(default_factory=dict)


REFUSALS = {
    "architecture": Refusal(
        2, r"error: unknown architecture 'sparc': it is amd64 or arm64\n", arguments=("--arch", "sparc")
    ),
    "alias": Refusal(
        2,
        r"error: unknown architecture 'aarch64': it is amd64 or arm64\nhint: did you mean arm64\?\n",
        arguments=("--arch", "aarch64"),
    ),
    "option": Refusal(2, r"(?s).*No such option '--nonsense'.*", arguments=("--nonsense",)),
    "command": Refusal(2, r"(?s).*unexpected extra argument \(frob\).*", arguments=("frob",)),
    "driver": Refusal(2, r"(?s).*'podman' is not one of.*", arguments=("--driver", "podman")),
    "tag": Refusal(
        2, r"error: .*Not A Name.*\n(hint: .*\n)?", arguments=("--driver", "oci", "--tag", "Not A Name")
    ),
    "epoch of many digits": Refusal(
        2, r"error: SOURCE_DATE_EPOCH is '9+'\nhint: .*\n", env={"SOURCE_DATE_EPOCH": "9" * 5000}
    ),
    "epoch of other digits": Refusal(
        2, r"error: SOURCE_DATE_EPOCH is '٣'\nhint: .*\n", env={"SOURCE_DATE_EPOCH": "٣"}
    ),
    "epoch": Refusal(2, r"error: SOURCE_DATE_EPOCH is 'soon'\nhint: .*\n", env={"SOURCE_DATE_EPOCH": "soon"}),
    "no-config": Refusal(
        2, r"error: /none/c\.yaml: there is no such file\nhint: .*\n", arguments=("--config", "/none/c.yaml")
    ),
    "not-yaml": Refusal(2, r"error: CONFIG:2: this is not YAML: .*\nhint: .*\n", "limits: [\n"),
    "not-a-mapping": Refusal(2, r"error: CONFIG:1: the file is a list.*\nhint: .*\n", "- a\n"),
    "all-problems": Refusal(
        2,
        r"error: CONFIG:1: foo: there is no such key\nhint: .*\n"
        r"error: CONFIG:2: max_workers: .*'x'\nhint: .*\n"
        r"error: CONFIG:3: limits\.memory: .*\nhint: .*\n",
        "foo: 1\nmax_workers: x\nlimits: {memory: much}\n",
    ),
    "system-call": Refusal(
        2,
        r'error: .*syscalls\.allow\[0\].*"?mbnd"?.*\nhint: did you mean "?mbind"?\?.*\n',
        "syscalls: {allow: [mbnd]}\n",
    ),
    "suite": Refusal(
        2,
        r"error: CONFIG:1: base: debian:trixy .*\nhint: did you mean debian:trixie\?.*\n",
        "base: debian:trixy\n",
    ),
    "mirror": Refusal(
        1,
        r"(?s).*error: the lists of debian:trixie for \w+ cannot be fetched: mmdebstrap .*\n"
        r"hint: is the mirror http://127\.0\.0\.1:9/ .*\n",
        "base_mirror: http://127.0.0.1:9/\n",
    ),
    "foreign-host": Refusal(
        2,
        rf"error: base: host cannot give an image for {OTHER}: this machine is {OWN}\nhint: .*\n",
        "base: host\n",
        ("--driver", "oci", "--arch", OTHER),
    ),
    "image-by-oci": Refusal(
        2, r"error: the oci driver cannot take an image as its base.*\nhint: .*\n", "base: python:3.13-slim\n"
    ),
    "image-without-docker": Refusal(
        3,
        r"error: no Docker Engine answers at .*\nhint: .*\n",
        "base: python:3.13-slim\n",
        ("--driver", "auto"),
        NO_DOCKER,
    ),
    "docker-absent": Refusal(
        3,
        r"error: no Docker Engine answers at unix:///none/docker\.sock\nhint: .*--driver oci.*\n",
        arguments=("--driver", "docker"),
        env=NO_DOCKER,
    ),
    "mmdebstrap-missing": Refusal(
        3, r"error: mmdebstrap is not installed\nhint: apt-get install mmdebstrap\n", env={"PATH": "/none"}
    ),
    "interpreter": Refusal(
        2,
        r"error: .*/usr/bin/python3\.99.*debian:trixie.*\nhint: .*/usr/bin/python3.*\n",
        "python_path: /usr/bin/python3.99\n",
    ),
    "missing-path": Refusal(
        2,
        r"error: python_lib_path\[1\]: /usr/lib/python3\.13/jsn is not in debian:trixie\n"
        r"hint: the nearest that exists is /usr/lib/python3\.13/json; or build with --allow-missing\n",
        "python_lib_path: [/usr/lib/python3.13, /usr/lib/python3.13/jsn]\n",
    ),
    "missing-path-by-docker": Refusal(
        2,
        r"error: python_lib_path\[1\]: /usr/lib/python3\.13/jsn is not in debian:trixie\n"
        r"hint: the nearest that exists is /usr/lib/python3\.13/json; or build with --allow-missing\n",
        "python_lib_path: [/usr/lib/python3.13, /usr/lib/python3.13/jsn]\n",
        ("--driver", "docker"),
    ),
}


@pytest.mark.usefixtures("nothing_stays")
@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name: str, output: Path, tmp_path: Path) -> None:
    """What cannot be built ends with its exit code and its reason, prints no result, and leaves nothing."""
    refusal = REFUSALS[name]
    config = tmp_path / "config.yaml"
    config.write_text(refusal.config)
    env = dict(refusal.env)
    if "mmdebstrap" in name:
        env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    done = sandbox_build("--output", str(output), "--config", str(config), *refusal.arguments, env=env)
    said = "".join(
        line
        for line in done.stderr.splitlines(keepends=True)
        if not line.startswith(("* ", "  driver", "  debian:"))
    )
    assert (done.exit_code, done.stdout) == (refusal.exit_code, ""), done.stderr
    assert re.fullmatch(refusal.stderr.replace("CONFIG", re.escape(str(config))), said), said
    assert "Traceback" not in said
    assert left_as_it_was(output)


def test_allow_missing(tmp_path: Path) -> None:
    """With --allow-missing the same config is built, with a warning."""
    config = tmp_path / "config.yaml"
    config.write_text(REFUSALS["missing-path"].config)
    arguments = (
        "--config",
        str(config),
        "--output",
        str(tmp_path / "dist"),
        "--driver",
        "oci",
        "--allow-missing",
    )
    done = sandbox_build(*arguments)
    assert done.exit_code == 0
    assert (
        "warning: python_lib_path[1]: /usr/lib/python3.13/jsn is not in debian:trixie: passed over\n"
        in done.stderr
    )


def test_docker_absent_auto(tmp_path: Path) -> None:
    """With `auto`, where no engine answers, oci is taken, and said to be taken."""
    done = sandbox_build("--output", str(tmp_path), env=NO_DOCKER)
    assert done.exit_code == 0
    assert "driver oci: no Docker Engine answers at unix:///none/docker.sock\n" in done.stderr


# Where nothing can be written


@pytest.mark.parametrize("place", ["/proc/dist", "/dev/null", "/dev/null/dist", "READ-ONLY"])
def test_output_not_writable(place: str, tmp_path: Path) -> None:
    """An output folder that cannot be made or written is a usage error that names it."""
    (tmp_path / "dist").mkdir()
    folder = str(tmp_path / "dist") if place == "READ-ONLY" else place
    mount = f"mount -t tmpfs -o ro tmpfs {tmp_path}/dist && " if place == "READ-ONLY" else ""
    done = in_mount_namespace(f'{mount}exec "$@"', "--output", folder)
    assert (done.exit_code, done.stdout) == (2, "")
    assert re.search(
        rf"error: --output {folder}: .+\nhint: name a folder that this user can write\n$", done.stderr
    )


@pytest.mark.usefixtures("nothing_stays")
@pytest.mark.parametrize(
    ("driver", "size", "both"),
    [
        *(("oci", "1M", False), ("oci", "20M", False), ("oci", "70M", False), ("oci", "95M", False)),
        *(("oci", "115M", False), ("docker", "70M", False), ("oci", "8M", True)),
    ],
)
def test_disk_full(driver: str, size: str, both: bool, tmp_path: Path) -> None:
    """Wherever the disk becomes full, that is said, with the folder, and all space is given back; of both
    architectures, where both failed.
    """
    folder = tmp_path / "dist"
    folder.mkdir()
    script = (
        f"mount -t tmpfs -o size={size} tmpfs {folder}\n"
        f"mkdir {folder}/{OWN}; echo '{OLD}' > {folder}/{OWN}/image.tar\n"
        f'"$@"; code=$?; find {folder} -type f; exit $code'
    )
    done = in_mount_namespace(
        *(script, "--output", str(folder), "--driver", driver, "--tag", f"sandbox-tests/full:{os.getpid()}"),
        *(f"--arch={arch}" for arch in ARCHES if both),
    )
    assert done.exit_code == 1, done.stderr
    assert done.stdout.split() == [f"{folder}/{OWN}/image.tar"]
    said = done.stderr[done.stderr.index("error: ") :]
    assert "No space left on device" in said
    for line in done.stderr.splitlines():
        if "No space" in line:
            assert str(folder) in line
    assert str(folder) in said
    assert "\nhint: " in said


def in_mount_namespace(script: str, *arguments: str) -> Result:
    """Runs `script`, whose "$@" is a build, where its mounts are seen by nobody else."""
    build = [sys.executable, "-m", "builder", *arguments]
    command = ["unshare", "--mount", "sh", "-c", script, "sh", *build]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=REPOSITORY)
    return Result(done.returncode, done.stdout, done.stderr)


# What is interrupted


@contextmanager
def building(
    phase: str, *arguments: str, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A build that has come as far as to announce `phase`."""
    command = [sys.executable, "-m", "builder", *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | (env or {}),
    ) as process:
        try:
            assert process.stderr is not None
            assert any(phase in line for line in process.stderr), f"never came to {phase}"
            yield process
        finally:
            process.kill()


@pytest.mark.usefixtures("nothing_stays")
@pytest.mark.parametrize(
    ("driver", "phase", "number", "times"),
    [
        ("oci", "choosing packages", signal.SIGINT, 1),
        ("oci", " packages, ", signal.SIGINT, 1),
        ("oci", "writing the context", signal.SIGINT, 1),
        ("oci", "building with driver oci", signal.SIGINT, 1),
        ("oci", "building with driver oci", signal.SIGINT, 5),
        ("oci", "building with driver oci", signal.SIGTERM, 1),
        ("oci", "writing the archive", signal.SIGINT, 1),
        ("oci", "writing the archive", signal.SIGHUP, 1),
        ("oci", "trying its imports", signal.SIGINT, 5),
        ("docker", "building with driver docker", signal.SIGINT, 1),
        ("docker", "writing the archive", signal.SIGTERM, 1),
    ],
)
def test_interrupted(driver: str, phase: str, number: int, times: int, output: Path, tmp_path: Path) -> None:
    """Ctrl-C, SIGTERM or a closed terminal in any phase: exit 130, no result, no file, mount, container or
    process; an impatient user's further ones change nothing.
    """
    cache = tmp_path / "cache"
    env = {"XDG_CACHE_HOME": str(cache)} if "packages" in phase else None
    arguments = (
        "--driver",
        driver,
        "--output",
        str(output),
        "--tag",
        f"sandbox-tests/interrupted:{os.getpid()}",
    )
    with building(phase, *arguments, env=env) as process:
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.02)
        stdout, stderr = process.communicate(timeout=20)
    # A further one may end Python itself on its way out: to a shell that is 130 as well.
    assert process.returncode in ([130] if times == 1 else [130, -number]), stderr
    assert stdout == ""
    assert "error: interrupted; no half-made image was left behind" in stderr
    assert "Traceback" not in stderr
    assert left_as_it_was(output)
    assert not [path for path in cache.glob("**/*") if path.name.startswith("new-")]


def processes_about(folder: Path) -> list[str]:
    """The command lines that have `folder` in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(str(folder) in word for word in words):
            found.append(shlex.join(words))
    return found


def test_two_at_once(output: Path) -> None:
    """A second build into the same folder is told so at once, and the first one is not disturbed."""
    arguments = ("--driver", "oci", "--output", str(output))
    with building("writing the context", *arguments) as first:
        second = sandbox_build(*arguments)
        stdout, stderr = first.communicate(timeout=60)
    assert (second.exit_code, second.stdout) == (1, "")
    assert f"error: --output {output}: another build is writing there\nhint: " in second.stderr
    assert first.returncode == 0, stderr
    assert "@sha256:" in stdout
    assert sorted(path.name for path in output.iterdir()) == [OWN]
