"""Docker Engine: BuildKit builds the rendered Dockerfile, and hands over what becomes the layers.

The SDK does all that its API can. It drives the legacy builder only, without `RUN --mount`: for BuildKit a
command-line client is looked for that can.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import docker
import requests
from docker.errors import DockerException

from builder.archive import open_archive
from builder.command import run
from builder.compression import COMPRESSIONS
from builder.dockerfile import LAYERS_STAGE
from builder.drivers.driver import AssemblerOutput, BuildJob
from builder.errors import BuildError, SandboxError, ToolMissing, room_hint
from builder.layers import LayerUnpacker
from builder.progress import Progress

_WITHOUT_DOCKER = "--driver oci needs no Docker"

# Saving: the engine writes the whole image to its own disk before the first byte comes.
_TIMEOUT_S = 600

# BuildKit left docker's own client for the buildx plugin with version 23.
_LAST_WITH_BUILDKIT = 22

_FIRST_WITH_ZSTD = 23

_ALMOST_FULL_BYTES = 1 << 20


@dataclass(frozen=True)
class BuildKitClient:
    """A docker command that can drive BuildKit."""

    path: str
    version: str
    buildx: bool

    def __str__(self) -> str:
        if self.buildx:
            return f"{self.path} with buildx {self.version}"
        return f"{self.path} {self.version} with BuildKit built in"

    def command(self, job: BuildJob, saved: Path) -> list[str]:
        """The command line that builds the layers of `job` and writes them to the tar file `saved`."""
        return [
            self.path,
            *(("buildx", "build") if self.buildx else ("build",)),
            *("--platform", job.arch.platform),
            *("--progress", "plain"),
            *("--network", "none"),
            *(("--no-cache",) if job.no_cache else ()),
            *("--target", LAYERS_STAGE),
            # One line of comma-separated values.
            *("--output", 'type=tar,"dest={}"'.format(str(saved).replace('"', '""'))),
            str(job.context),
        ]


def find_client(search_path: str | None = None) -> BuildKitClient:
    """The first docker on `search_path` that can drive BuildKit; ToolMissing where none can.

    By default on PATH, then in /usr/bin: a distribution's own client may be hidden by one that lacks buildx.
    """
    if search_path is None:
        search_path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/bin"])
    unfit = []
    seen = set()
    for folder in filter(None, search_path.split(os.pathsep)):
        client = Path(folder) / "docker"
        if not os.access(client, os.X_OK) or client.resolve() in seen:
            continue
        seen.add(client.resolve())
        with suppress(SandboxError):
            # github.com/docker/buildx VERSION REVISION
            said = run([str(client), "buildx", "version"]).split()
            return BuildKitClient(str(client), " ".join(said[1:2]), buildx=True)
        with suppress(SandboxError):
            version = re.search(r"Docker version ((\d+)\.[^\s,]+)", run([str(client), "--version"]))
            if version and int(version[2]) <= _LAST_WITH_BUILDKIT:
                return BuildKitClient(str(client), version[1], buildx=False)
        unfit.append(str(client))
    if unfit:
        raise ToolMissing(
            f"no docker client here can drive BuildKit: {', '.join(unfit)} without buildx",
            f"install the buildx plugin (docker-buildx or docker-buildx-plugin); {_WITHOUT_DOCKER}",
        )
    raise ToolMissing("no docker client on PATH", f"install docker.io or docker-cli; {_WITHOUT_DOCKER}")


def connect() -> docker.DockerClient:
    """A session with Docker Engine; ToolMissing where none answers.

    DOCKER_HOST says where, else the context that `docker context use` chose: the client's engine is the same.
    """
    try:
        return docker.from_env(timeout=_TIMEOUT_S)
    except (DockerException, requests.RequestException) as error:
        if "Permission denied" in str(error):
            raise ToolMissing(
                "this user may not talk to Docker Engine",
                f"add the user to the group docker and log in again; {_WITHOUT_DOCKER}",
            ) from error
        raise ToolMissing(
            f"no Docker Engine answers at {os.environ.get('DOCKER_HOST', 'its usual socket')}",
            f"start it (systemctl start docker); {_WITHOUT_DOCKER}",
        ) from error


def engine_version() -> str:
    """The version of the Docker Engine that answers here; ToolMissing where none does."""
    with closing(connect()) as engine:
        return str(engine.version()["Version"])


class DockerDriver:
    """A running Docker Engine and a client for its BuildKit; ToolMissing where one is not there."""

    name = "docker"

    def __init__(self) -> None:
        self._version = engine_version()
        self._client = find_client()

    def __str__(self) -> str:
        return f"Docker Engine {self._version} through {self._client}"

    def build(self, job: BuildJob, progress: Progress) -> Path:
        saved, out = job.scratch / "layers.tar", job.scratch / "out"
        with closing(connect()) as engine:
            self._build(engine, job, saved, progress)
        progress.detail("unpacking the layers")
        try:
            # What a base's interpreter wrote: nothing may leave the folder.
            unpacker = LayerUnpacker(out)
            with saved.open("rb") as tar:
                unpacker.unpack(tar)
            unpacker.finish()
        except (OSError, tarfile.TarError) as error:
            what = getattr(error, "strerror", None) or str(error)
            hint = room_hint(error) if isinstance(error, OSError) else None
            raise BuildError(f"{out}: what BuildKit made cannot be unpacked: {what}", hint) from error
        finally:
            saved.unlink(missing_ok=True)
        return out

    def _build(self, engine: docker.DockerClient, job: BuildJob, saved: Path, progress: Progress) -> None:
        output = AssemblerOutput(progress)
        try:
            run(
                self._client.command(job, saved),
                env=os.environ | {"DOCKER_BUILDKIT": "1"},
                on_line=output,
                echo=progress.command,
            )
        except BuildError as error:
            with _explained():
                engine.ping()
            # The client says no more than "EOF" of what it could not write.
            if shutil.disk_usage(job.scratch).free < _ALMOST_FULL_BYTES:
                full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                raise BuildError(f"{saved}: not written: {full.strerror}", room_hint(full)) from None
            raise output.failure(error) from None

    def publish(self, archive: Path, progress: Progress) -> None:
        with open_archive(archive) as opened:
            is_zstd = any(layer.media_type == COMPRESSIONS["zstd"].media_type for layer in opened.layers)
        major = re.match(r"\d+", self._version)  # an engine of today's sources has none
        if is_zstd and major is not None and int(major[0]) < _FIRST_WITH_ZSTD:
            progress.warn(
                f"{archive} was not loaded: Docker Engine {self._version} cannot read zstd, "
                f"{_FIRST_WITH_ZSTD} and later can"
            )
            return
        with closing(connect()) as engine, archive.open("rb") as file, _explained():
            engine.images.load(file)


@contextmanager
def _explained() -> Iterator[None]:
    """Turns the SDK's exceptions into BuildError."""
    try:
        yield
    except requests.RequestException as error:
        raise BuildError("Docker Engine went away during the build", _WITHOUT_DOCKER) from error
    except DockerException as error:
        raise BuildError(f"Docker Engine: {error}") from error
