"""Builds by a real Docker Engine, and the same ones without it. The assembler is a quick stand-in."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound
from docker.models.images import Image

from builder.arch import ARCHES, Arch, host_arch
from builder.archive import BuiltImage, open_archive, write_archive
from builder.dockerfile import DockerfileInputs, render_dockerfile
from builder.drivers import BuildJob, DockerDriver, OciDriver, choose_driver
from builder.drivers.docker import find_client
from builder.errors import BuildError, ConfigError, ToolMissing
from builder.layers import write_layer
from builder.progress import Progress
from tests.integration.servers import Relay, wait_for

REFERENCE = "sandbox-test:driver"
LABELS = {
    "com.example.motto": 'it costs $5, "they" said \\o/ ${HOME} `id` # \\',
    "org.opencontainers.image.title": f"größer {os.getpid()}",
}
EPOCH = 1735689600

# Does what a file called `do` in the root filesystem says, and makes a root with one of each kind of entry.
ASSEMBLER = f"""\
import os, sys, time
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
root, out = arguments["--root"], arguments["--out"] + "/root"
for name in ("--spec", "--policy", "--runtime"):
    os.stat(arguments[name])
with open(root + "/do") as file:
    exec(file.read())
os.makedirs(out + "/var/tree/usr/bin")
for name, mode in (("python", 0o755), ("secret", 0o400), ("long" * 40, 0o444), ("gr\\xfcn", 0o644)):
    path = out + "/var/tree/usr/bin/" + name
    with open(path, "w") as file:
        file.write(name * 1000)
    os.chmod(path, mode)
os.symlink("/usr/bin/python", out + "/var/tree/absolute")
os.symlink("var/tree/usr", out + "/usr")
os.mkdir(out + "/tmp")
os.chmod(out + "/tmp", 0o1777)
for folder, folders, files in os.walk(out, topdown=False):
    for name in folders + files:
        os.utime(os.path.join(folder, name), ({EPOCH}, {EPOCH}), follow_symlinks=False)
"""

# docker-py forgets to close a socket that it could not connect.
forgets_socket = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

MakeJob = Callable[..., BuildJob]


@pytest.fixture
def make_job(base: Path, tmp_path: Path) -> MakeJob:
    """A job whose target does, and is, what the test says."""

    def make(do: str = "", arch: Arch | None = None, **changes: object) -> BuildJob:
        target = arch or host_arch()
        context = tmp_path / "context"
        for name in ("context/assembler", "context/runtime", "scratch", "rootfs"):
            (tmp_path / name).mkdir(parents=True)
        (context / "assembler/__main__.py").write_text(ASSEMBLER)
        (context / "runtime/entrypoint.py").touch()
        (context / "spec.json").write_text("{}")
        (context / "policy.bpf").write_bytes(b"")
        (tmp_path / "rootfs/do").write_text(do)
        # The target is the same base with `do` in it, or, for another architecture, `do` alone.
        foreign = target != host_arch()
        shutil.copyfile(base, context / ("assembler.tar" if foreign else "target.tar"))
        with tarfile.open(context / "target.tar", "w" if foreign else "a") as tar:
            tar.add(tmp_path / "rootfs/do", "do")
        inputs = DockerfileInputs(target, "/usr/bin/python3", foreign=foreign, labels=LABELS)
        (context / "Dockerfile").write_text(render_dockerfile(inputs))
        job = BuildJob(
            arch=target,
            context=context,
            scratch=tmp_path / "scratch",
            rootfs=tmp_path / "rootfs",
            assembler_command=(sys.executable, "-I", "-S", "-B"),
        )
        return replace(job, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture(autouse=True)
def nothing_stays(engine: docker.DockerClient) -> Iterator[None]:
    """Whatever a test did, the engine has no image and no container of ours left, but for REFERENCE."""
    yield
    with suppress(ImageNotFound):
        engine.images.remove(REFERENCE)
    ours: dict[str, str | list[str] | bool] = {
        "label": f"org.opencontainers.image.title={LABELS['org.opencontainers.image.title']}"
    }
    assert engine.images.list(all=True, filters=ours) == []
    assert engine.containers.list(all=True, filters=ours) == []


def quiet() -> Progress:
    return Progress(quiet=True)


def entries(out: Path) -> dict[str, tuple[object, ...]]:
    """Everything that a layer's tar will say of each path in the folder of a layer, but for its date."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted((out / "root").rglob("*")):
        status = path.lstat()
        content = (
            path.readlink()
            if path.is_symlink()
            else path.read_bytes()
            if stat.S_ISREG(status.st_mode)
            else None
        )
        found[str(path.relative_to(out))] = (stat.filemode(status.st_mode), content)
    return found


# What is built


def test_folders(make_job: MakeJob, capsys: pytest.CaptureFixture[str]) -> None:
    """BuildKit runs the assembler of the rendered context, and hands over the folders that it made."""
    out = DockerDriver().build(make_job("print('progress: at work')"), Progress(verbose=True))
    assert [path.name for path in out.iterdir()] == ["root"]
    assert (out / "root/usr/bin/python").read_text() == "python" * 1000
    assert "< at work\n" in capsys.readouterr().err


def test_both_drivers(make_job: MakeJob) -> None:
    """The two drivers give the same files, with their modes."""
    job = make_job()
    by_docker = entries(DockerDriver().build(job, quiet()))
    (job.scratch / "oci").mkdir()
    assert by_docker == entries(OciDriver().build(replace(job, scratch=job.scratch / "oci"), quiet()))
    assert by_docker["root/tmp"][0] == "drwxrwxrwt"


def test_a_path_that_ends_an_option(make_job: MakeJob) -> None:
    """A folder whose name has commas, quotes and blanks is one place for BuildKit, too."""
    job = make_job()
    odd = job.scratch / 'a,b="c" d'
    odd.mkdir()
    assert "root/usr" in entries(DockerDriver().build(replace(job, scratch=odd), quiet()))


def test_the_context_builds_without_us(make_job: MakeJob, engine: docker.DockerClient) -> None:
    """The Dockerfile's last stage is the same image: its files, its labels, and what it starts with."""
    job = make_job()
    client = find_client()
    subprocess.run(
        [client.path, "build", "--network", "none", "--tag", REFERENCE, str(job.context)],
        env=os.environ | {"DOCKER_BUILDKIT": "1"},
        check=True,
        capture_output=True,
    )
    image = engine.images.get(REFERENCE)
    assert image.labels == LABELS
    assert image.attrs["Config"]["Entrypoint"][2:] == ["-I", "-S", "-B", "/sandbox/entrypoint.pyc"]
    container = engine.containers.create(image, labels=LABELS)
    try:
        chunks, _ = container.get_archive("/var/tree/usr/bin")
        (job.scratch / "saved.tar").write_bytes(b"".join(chunks))
    finally:
        container.remove()
    with tarfile.open(job.scratch / "saved.tar") as tar:
        found = {entry.name: (stat.S_IMODE(entry.mode), entry.mtime) for entry in tar if entry.isreg()}
    assert found["bin/python"] == (0o755, EPOCH)
    assert found["bin/secret"] == (0o400, EPOCH)


def test_other_architecture(make_job: MakeJob) -> None:
    """What an image for another architecture is made of comes from this machine's interpreter."""
    other = next(arch for arch in ARCHES.values() if arch != host_arch())
    heard = Listening()
    out = DockerDriver().build(make_job("print('progress:', os.uname().machine)", arch=other), heard)
    assert os.uname().machine in heard.details
    assert "root/usr" in entries(out)


def test_loads_as_built(archive: Path, engine: docker.DockerClient) -> None:
    """The engine has no image of the asked name until the archive is published, and then the very one."""
    with open_archive(archive) as sent:
        ids = {sent.config.digest, sent.descriptor.digest}
    DockerDriver().publish(archive, quiet())
    (loaded,) = (image for image in engine.images.list() if image.id in ids)
    try:
        assert loaded.tags
    finally:
        engine.images.remove(loaded.tags[0])


def test_loads_for_another_architecture(archive: Path, engine: docker.DockerClient) -> None:
    """An archive for arm64 is loaded as an image for arm64, whatever the engine runs on."""
    loaded = load(engine, archive)
    try:
        assert (loaded.attrs["Os"], loaded.attrs["Architecture"]) == ("linux", "arm64")
        with open_archive(archive) as sent:
            assert loaded.id in {sent.config.digest, sent.descriptor.digest}
    finally:
        engine.images.remove(loaded.tags[0])


def load(engine: docker.DockerClient, archive: Path) -> Image:
    """The image that `docker load` makes of `archive`. Its ID is the config's digest; on containerd's store,
    the manifest's.
    """
    with archive.open("rb") as file:
        (loaded,) = engine.images.load(file)
    return loaded


def test_missing_base(make_job: MakeJob) -> None:
    """A base that no registry gives is named first, with the reason, and not in a log of BuildKit's."""
    job = make_job()
    inputs = DockerfileInputs(host_arch(), "/usr/bin/python3", image="127.0.0.1:1/nothing:1")
    (job.context / "Dockerfile").write_text(render_dockerfile(inputs))
    with pytest.raises(BuildError, match=r"^base 127\.0\.0\.1:1/nothing:1 is not to be had: .*refused"):
        DockerDriver().build(job, quiet())


def test_no_cache(make_job: MakeJob) -> None:
    """A second build takes the assembler's output from BuildKit's cache, unless told not to."""
    job = make_job("print('progress: ran')")
    ran: list[bool] = []
    for no_cache in (True, False, True):
        heard = Listening()
        scratch = job.scratch / str(len(ran))
        scratch.mkdir()
        DockerDriver().build(replace(job, no_cache=no_cache, scratch=scratch), heard)
        ran.append("ran" in heard.details)
    assert ran == [True, False, True]


class Listening(Progress):
    """Keeps what it is told, and does something when it hears a word."""

    def __init__(self, word: str = "", then: Callable[[], None] = lambda: None) -> None:
        super().__init__(quiet=True)
        self.details: list[str] = []
        self._word = word
        self._then = then

    def detail(self, text: str) -> None:
        self.details.append(text)
        if text == self._word:
            self._then()


# What goes wrong


def test_wrong_config(make_job: MakeJob) -> None:
    """The assembler's refusal of a config reaches the user whole through BuildKit, as what it is."""
    do = "print('error: no /a', 'hint: /b', 'error: no /c', sep='\\n', file=sys.stderr); sys.exit(2)"
    with pytest.raises(ConfigError) as refused:
        DockerDriver().build(make_job(do), quiet())
    assert refused.value.problems == [("no /a", "/b"), ("no /c", None)]


def test_broken_dockerfile(make_job: MakeJob) -> None:
    """A failure that is not the assembler's shows the command and BuildKit's last lines."""
    job = make_job()
    (job.context / "policy.bpf").unlink()
    with pytest.raises(BuildError, match=r"(?s)build.*policy\.bpf.*not found"):
        DockerDriver().build(job, quiet())


@forgets_socket
def test_engine_not_permitted(monkeypatch: pytest.MonkeyPatch, relay: Relay) -> None:
    """A socket that this user may not open is told apart from one that is not there."""
    us = os.geteuid()
    relay.path.chmod(0)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{relay.path}")
    # Root may open everything: another user has to try.
    os.seteuid(us or 65534)
    try:
        with pytest.raises(ToolMissing, match="may not talk to Docker Engine") as missing:
            choose_driver("docker", "debian", quiet())
    finally:
        os.seteuid(us)
    assert "group docker" in str(missing.value.hint)


@forgets_socket
def test_engine_dies(make_job: MakeJob, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that goes away half-way is a failed build with a way out, not a traceback."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{relay.path}")
    driver = DockerDriver()
    job = make_job("print('progress: asleep', flush=True); time.sleep(60)")

    with pytest.raises(BuildError, match="Docker Engine went away during the build") as failed:
        driver.build(job, Listening("asleep", relay.cut))
    assert "--driver oci" in str(failed.value.hint)


def test_interrupted(make_job: MakeJob, tmp_path: Path) -> None:
    """Ctrl-C ends the build: the interpreter in it stops, and no image and no container stay."""
    marker = f"asleep-{os.getpid()}"
    sleep = f"os.execv(sys.executable, ['{marker}', '-c', 'import time; time.sleep(60)'])"
    job = make_job(f"print('progress: {marker}', flush=True); {sleep}")
    script = (
        "import sys, pickle; from pathlib import Path\n"
        "from builder.drivers import DockerDriver; from builder.progress import Progress\n"
        "job = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "try: DockerDriver().build(job, Progress(verbose=True))\n"
        "except KeyboardInterrupt: sys.exit(130)\n"
    )
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "job")],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        process_group=0,
    )
    assert process.stderr is not None
    with process.stderr:
        assert any(line == f"< {marker}\n" for line in process.stderr)
        wait_for(lambda: running(marker))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    wait_for(lambda: not running(marker))


def running(name: str) -> bool:
    """Whether a process has `name` as its argv[0]."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[0].decode(errors="replace") == name:
                return True
        except OSError:
            pass
    return False


def test_an_engine_that_cannot_read_zstd(
    engine: docker.DockerClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image of zstd layers is loaded where the engine can, and where it cannot the build says so."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").write_text("x")
    write_layer(tmp_path / "root", tmp_path / "layer.tar", epoch=0)
    diff_id = f"sha256:{hashlib.sha256((tmp_path / 'layer.tar').read_bytes()).hexdigest()}"
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    image = BuiltImage(json.dumps(config).encode(), (tmp_path / "layer.tar",))
    write_archive(image, tmp_path / "image.tar", REFERENCE, compression="zstd")
    DockerDriver().publish(tmp_path / "image.tar", Progress())
    told = "cannot read zstd" in capsys.readouterr().err
    there = any(REFERENCE in found.tags for found in engine.images.list())
    assert told != there
    assert told == (int(engine.version()["Version"].partition(".")[0]) < 23)
