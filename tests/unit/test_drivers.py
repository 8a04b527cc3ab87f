"""Drivers without Docker: which one, which client, what the assembler said; and the oci driver."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.arch import ARCHES
from builder.drivers import BuildJob, OciDriver, choose_driver
from builder.drivers.docker import find_client
from builder.drivers.driver import AssemblerOutput
from builder.errors import BuildError, ConfigError, ToolMissing, UsageError
from builder.progress import Progress

# docker clients


@pytest.fixture
def client(tmp_path: Path) -> Callable[[str, str, str], str]:
    """Makes a folder with a `docker` that has a version and, where told so, buildx; gives the folder."""

    def made(name: str, version: str, buildx: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "docker").write_text(
            "#!/bin/sh\n"
            f'case "$*" in\n--version) echo "Docker version {version}, build 0123456" ;;\n'
            f'"buildx version") {buildx} ;;\n*) exit 1 ;;\nesac\n'
        )
        (folder / "docker").chmod(0o755)
        return str(folder)

    return made


HAS = "echo github.com/docker/buildx v0.13.1 788433953"
LACKS = 'echo "docker: unknown command: docker buildx" >&2; exit 1'


def test_client_with_buildx(client: Callable[[str, str, str], str]) -> None:
    """The first client that can is taken, here by way of buildx."""
    path = ":".join(
        [client("a", "28.2.2", LACKS), client("b", "28.2.2", HAS), client("c", "20.10.24", LACKS)]
    )
    found = find_client(path)
    assert Path(found.path).parent.name == "b"
    assert (found.version, found.buildx) == ("v0.13.1", True)


def test_client_before_buildx(client: Callable[[str, str, str], str]) -> None:
    """Docker 20.10's client has BuildKit in itself, and is found behind one that lacks its plugin."""
    found = find_client(":".join([client("a", "23.0.0", LACKS), client("b", "20.10.24+dfsg1", LACKS)]))
    assert Path(found.path).parent.name == "b"
    assert (found.version, found.buildx) == ("20.10.24+dfsg1", False)


def test_no_capable_client(client: Callable[[str, str, str], str]) -> None:
    """Where none can, the error names each that was tried, once, and the way without."""
    folder = client("a", "28.2.2", LACKS)
    with pytest.raises(ToolMissing, match=f": {folder}/docker without buildx") as missing:
        find_client(f"{folder}:{folder}")
    assert "--driver oci" in str(missing.value.hint)


def test_no_client(tmp_path: Path) -> None:
    """No client at all is an error of its own."""
    with pytest.raises(ToolMissing, match="no docker client on PATH"):
        find_client(str(tmp_path))


# Which driver


@pytest.fixture
def without_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")
    yield
    gc.collect()


# docker-py forgets to close a socket that it could not connect.
forgets_socket = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@forgets_socket
@pytest.mark.usefixtures("without_docker")
def test_auto_without_docker(capsys: pytest.CaptureFixture[str]) -> None:
    """Without Docker, auto takes oci, and says why."""
    assert choose_driver("auto", "debian", Progress()).name == "oci"
    assert "driver oci: no Docker Engine answers at unix:///" in capsys.readouterr().err


@forgets_socket
@pytest.mark.usefixtures("without_docker")
@pytest.mark.parametrize(("name", "base"), [("docker", "debian"), ("docker", "image"), ("auto", "image")])
def test_docker_wanted(name: str, base: str) -> None:
    """Where Docker is asked for, or the base is an image, its absence is an error with a hint."""
    with pytest.raises(ToolMissing, match="no Docker Engine answers") as missing:
        choose_driver(name, base, Progress())
    assert missing.value.hint


@pytest.mark.parametrize(("name", "base"), [("oci", "image"), ("podman", "debian")])
def test_impossible_driver(name: str, base: str) -> None:
    """oci cannot take an image as its base, and there is no other driver."""
    with pytest.raises(UsageError):
        choose_driver(name, base, Progress())


# What the assembler said


def heard(*lines: str) -> AssemblerOutput:
    output = AssemblerOutput(Progress(quiet=True))
    for line in lines:
        output(line)
    return output


def test_wrong_config() -> None:
    """Exit code 2 inside BuildKit is the config's fault: every problem is kept, with its hint."""
    failure = heard(
        "#9 [assembler 5/5] RUN --mount=type=bind,from=target,target=/target [...]",
        "#9 0.113 progress: reading",
        "#9 0.214 error: python_lib_path: no /opt/a",
        "#9 0.214 hint: did you mean /opt/b?",
        "#9 0.215 error: python_lib_path: no /opt/c",
        "#9 ERROR: executor failed running [/usr/bin/python3.13]: exit code: 2",
    ).failure(BuildError("docker build: exit code 1"))
    assert isinstance(failure, ConfigError)
    assert failure.problems == [
        ("python_lib_path: no /opt/a", "did you mean /opt/b?"),
        ("python_lib_path: no /opt/c", None),
    ]


def test_failed_assembly() -> None:
    """Any other exit code is a failed build, in the assembler's words."""
    failure = heard("error: no space left", "hint: free some").failure(BuildError("python: exit code 1"))
    assert isinstance(failure, BuildError)
    assert (failure.message, failure.hint) == ("no space left", "free some")


def test_other_failure() -> None:
    """Where the assembler said nothing, the command's own failure stands."""
    error = BuildError("docker build: exit code 1\n  < no such file")
    assert heard("#3 transferring context").failure(error) is error


def test_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress is shown as it comes, and warnings even where progress is not."""
    output = AssemblerOutput(Progress(verbose=True))
    output("#9 0.5 progress: 17 of 99 files")
    AssemblerOutput(Progress(quiet=True))("#9 0.5 warning: no /etc/hosts")
    assert capsys.readouterr().err == "< 17 of 99 files\nwarning: no /etc/hosts\n"


# The oci driver

ASSEMBLER = """\
import os, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
root, out = arguments["--root"], arguments["--out"]
print("progress: assembling", flush=True)
if os.path.exists(os.path.join(root, "fail")):
    print("error: no /opt/a", "hint: /opt/b", sep="\\n", file=sys.stderr)
    sys.exit(2)
os.makedirs(out + "/root/var/tree")
with open(out + "/root/var/tree/environment", "w") as file:
    file.write(" ".join(sorted(os.environ)))
os.chmod(out + "/root/var/tree/environment", 0o444)
os.symlink("var/tree", out + "/root/usr")
"""


@pytest.fixture
def job(tmp_path: Path) -> BuildJob:
    """A job whose assembler says what it saw."""
    for name in ("context/assembler", "scratch", "rootfs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "context/assembler/__main__.py").write_text(ASSEMBLER)
    return BuildJob(
        arch=ARCHES["arm64"],
        context=tmp_path / "context",
        scratch=tmp_path / "scratch",
        rootfs=tmp_path / "rootfs",
        assembler_command=(sys.executable, "-I", "-S", "-B"),
    )


def test_oci_folders(job: BuildJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """The assembler's folders are what it gets, and the assembler knows nothing of this machine."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "/tmp")
    out = OciDriver().build(job, Progress(quiet=True))
    assert [path.name for path in out.iterdir()] == ["root"]
    assert (out / "root/usr/environment").read_text() == "LC_ALL"


def test_oci_refusal(job: BuildJob) -> None:
    """The assembler's own words reach the user, and its exit code decides what kind of error it is."""
    assert job.rootfs is not None
    (job.rootfs / "fail").touch()
    with pytest.raises(ConfigError) as refused:
        OciDriver().build(job, Progress(quiet=True))
    assert refused.value.problems == [("no /opt/a", "/opt/b")]
