"""What real builds need: Docker Engine, a registry on loopback, a base with an interpreter."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import docker
import pytest

from builder import jailrun
from builder.arch import ARCHES, host_arch
from builder.archive import BuiltImage, write_archive
from builder.layers import write_layer
from builder.registry import client as registry_client
from tests import binfmt
from tests.conftest import sandbox_build
from tests.integration.front import Front, serving
from tests.integration.servers import HTPASSWD, Relay, running_registry
from tests.integration.wheelindex import Index
from tests.integration.wheelindex import serving as serving_wheels
from tests.integration.wheelproject import Project
from tests.suite.shelf import QUICK


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """The Docker Engine of this machine: `make test` starts one."""
    with closing(docker.from_env()) as client:
        client.ping()
        yield client


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """HOST:PORT of a registry that anybody may push to."""
    with running_registry(tmp_path) as host:
        yield host


@pytest.fixture
def private_registry(tmp_path: Path) -> Iterator[str]:
    """HOST:PORT of a registry that wants USER and PASSWORD."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    with running_registry(tmp_path, f"auth: {{htpasswd: {{realm: r, path: {tmp_path}/htpasswd}}}}\n") as host:
        yield host


@pytest.fixture
def front(registry: str) -> Iterator[Front]:
    """A front of `registry` that can be told to misbehave."""
    with serving(registry) as server:
        yield server


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails for a moment is tried again as often as ever, after shorter pauses."""
    monkeypatch.setattr(registry_client, "_PAUSES_S", (0.01, 0.02, 0.03))


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, object]], Path]:
    """Writes Docker's config file, for us and for every docker that is started."""
    folder = tmp_path / "docker-config"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))

    def write(content: dict[str, object]) -> Path:
        (folder / "config.json").write_text(json.dumps(content))
        return folder

    write({})
    return write


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of two layers, for arm64, whatever this machine is."""
    return make_archive(tmp_path, "archive", [bytes(range(256)) * 2000, b"small"])


def make_archive(folder: Path, name: str, layers: Sequence[bytes], *, architecture: str = "arm64") -> Path:
    """An archive with a layer for each content of a file."""
    tars = []
    for number, content in enumerate(layers):
        root = folder / f"{name}-root-{number}"
        root.mkdir()
        (root / f"file-{number}").write_bytes(content)
        tars.append(folder / f"{name}-{number}.tar")
        write_layer(root, tars[-1], epoch=0)
    diff_ids = [f"sha256:{hashlib.sha256(tar.read_bytes()).hexdigest()}" for tar in tars]
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": ["/file-0"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    path = folder / f"{name}.tar"
    write_archive(BuiltImage(json.dumps(config).encode(), tuple(tars)), path, f"sandbox-test:{name}")
    return path


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of a root filesystem for this machine, with an interpreter at /usr/bin/python3."""
    path = tmp_path_factory.mktemp("base") / "base.tar"
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--mode=chrootless", "--variant=extract"),
            # base-files has the link /lib64, where the kernel looks for the interpreter's loader.
            *("--include=base-files,python3-minimal", "trixie", str(path)),
        ],
        check=True,
    )
    return path


@pytest.fixture
def relay() -> Iterator[Relay]:
    """A way to Docker Engine that can be cut."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        made = Relay(Path(folder) / "docker.sock", "/var/run/docker.sock")
        yield made
        made.cut()
    gc.collect()


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The images of tests/suite/quick.yaml, built by one command for both architectures: what --output has.

    The imports of the other architecture were tried through qemu.
    """
    output = tmp_path_factory.mktemp("quick")
    arches = [f"--arch={name}" for name in ARCHES]
    with binfmt.emulator():
        built = sandbox_build("--driver=oci", f"--config={QUICK}", f"--output={output}", *arches)
    assert built.exit_code == 0, built.stderr
    yield output
    shutil.rmtree(output)


@pytest.fixture(scope="session")
def quick_root(quick: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of the one for this machine, unpacked."""
    folder = tmp_path_factory.mktemp("quick-root")
    yield jailrun.unpack(quick / host_arch().name / "image.tar", folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def quick_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of quick.yaml for this machine, as `sandbox-build wheelhouse` brings them."""
    folder = tmp_path_factory.mktemp("quick-wheels")
    done = sandbox_build("wheelhouse", str(folder), f"--config={QUICK}", f"--arch={host_arch().name}")
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose packages come from its folder of wheels alone."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    made = Project(tmp_path)
    made.wheels.mkdir()
    return made


@pytest.fixture
def indexed(project: Project) -> Iterator[tuple[Project, Index]]:
    """The same, with an index that wants a password."""
    with serving_wheels(Index(project.wheels, login=("user", "s3cret"))) as index:
        project.index = index.url
        yield project, index
