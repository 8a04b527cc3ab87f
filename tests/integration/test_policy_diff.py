"""`sandbox-build policy diff`: configs, archives, and images of a real registry and of Docker Engine."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import docker
import pytest

from builder.arch import ARCHES, host_arch
from builder.archive import open_archive
from builder.progress import Progress
from builder.registry import Image, push
from builder.seccomp import Request, effective_policy
from builder.seccomp.snapshot import POLICY_LABEL, policy_labels
from tests.conftest import sandbox_build
from tests.integration.front import Fault, Front
from tests.integration.policies import labelled, of, policy

HOST = host_arch()
ARM64 = ARCHES["arm64"]
OTHER = next(arch for arch in ARCHES.values() if arch != HOST)


@contextmanager
def in_engine(engine: docker.DockerClient, archive: Path, name: str) -> Iterator[str]:
    """The ID of an image of Docker Engine that is called `name` and has the labels of `archive`'s."""
    with open_archive(archive) as opened:
        labels, architecture = opened.image_config["config"]["Labels"], opened.platform["architecture"]
    root = archive.with_suffix(".root.tar")
    with tarfile.open(root, "w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    changes = [f"LABEL {key}={json.dumps(value)}" for key, value in labels.items()]
    repository, _, tag = name.rpartition(":")
    engine.api.import_image(str(root), repository, tag, changes=changes)
    image = engine.images.get(name)
    try:
        assert image.attrs["Architecture"] == architecture
        yield str(image.id)
    finally:
        engine.images.remove(str(image.id), force=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("syscalls: {groups: [processes]}\nenable_network: true\n")
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.yaml"
    path.touch()
    return path


def test_diff_of_configs(config: Path, plain: Path) -> None:
    """1 and the riskiest first where something is newly permitted, 0 where nothing is or less is."""
    more = policy("diff", str(plain), str(config), "--arch", "amd64")
    assert (more.exit_code, more.stderr) == (1, "")
    lines = more.stdout.splitlines()
    calls = {line.split()[0] for line in lines if re.fullmatch(r"    \w+ \(\d+\).*", line)}
    assert {"connect", "socket", "clone", "fork", "wait4"} <= calls
    assert lines[0] == f"newly permitted: {len(calls)}"
    assert lines[1].startswith("  network: Code reaches every address")
    assert "    connect (42)                socket.connect" in lines
    assert lines.index("    connect (42)                socket.connect") < lines.index(
        "    vfork (58)                  subprocess"
    )
    assert lines[-1] == "no longer permitted: nothing"
    less = policy("diff", str(config), str(plain), "--arch", "amd64")
    assert less.exit_code == 0
    assert f"newly permitted: nothing\nno longer permitted: {len(calls)}\n" in less.stdout
    same = policy("diff", str(plain), str(plain))
    assert (same.exit_code, same.stdout) == (0, "newly permitted: nothing\nno longer permitted: nothing\n")


def test_diff_as_data(tmp_path: Path, plain: Path) -> None:
    """--json has each change with call, number, group and lines, and both sides with their digests."""
    risky = tmp_path / "risky.yaml"
    risky.write_text('syscalls: {unsafe: [ptrace], allow: [{ioctl: {when: ["request == 0x5410"]}}]}\n')
    found = policy("diff", "--json", "--arch", "amd64", str(plain), str(risky))
    assert found.exit_code == 1
    data = json.loads(found.stdout)
    assert [(one["call"], one["number"], one["group"], one["when"]) for one in data["newly"]] == [
        ("ptrace", 101, "unsafe", []),
        ("ioctl", 16, "no group", ["request == 0x5410"]),
    ]
    assert data["no_longer"] == []
    assert data["before"]["arch"] == "amd64"
    assert data["before"]["digest"] != data["after"]["digest"]


def test_diff_of_an_image_and_the_config_it_came_from(image: Path, loaded_image: str) -> None:
    """As an archive, as its folder and as Docker has it, by name and by ID, the image is its config's."""
    identity = docker.from_env().images.get(loaded_image).id
    for name in (str(image), str(image.parent), loaded_image, str(identity)):
        same = policy("diff", name, "config.yaml", "--json")
        assert same.exit_code == 0, (name, same.stderr)
        data = json.loads(same.stdout)
        assert (data["newly"], data["no_longer"]) == ([], [])
        assert data["before"]["digest"] == data["after"]["digest"]


def test_a_config_is_read_for_the_images_architecture(tmp_path: Path, plain: Path) -> None:
    """Beside an image of arm64 a config means what it comes to there."""
    arm64 = of(Request(), tmp_path, "arm64", "arm64")
    for arguments in ((str(plain), str(arm64)), (str(arm64), str(plain))):
        same = policy("diff", *arguments)
        assert (same.exit_code, same.stdout) == (
            0,
            "newly permitted: nothing\nno longer permitted: nothing\n",
        )


def test_diff_across_architectures(tmp_path: Path) -> None:
    """Calls are compared by name, which is said."""
    amd64, arm64 = of(Request(), tmp_path, "amd64"), of(Request(("memfd",)), tmp_path, "arm64", "arm64")
    found = policy("diff", str(amd64), str(arm64))
    assert found.exit_code == 1
    assert found.stdout.startswith(
        "note: amd64 is compared with arm64, call by call by name\nnote: left out, "
    )
    assert "\n    memfd_create (279) " in found.stdout


@pytest.mark.usefixtures("docker_config")
def test_diff_of_a_registrys_images(tmp_path: Path, registry: str) -> None:
    """By tag and by digest, one image or an index over two architectures; only the config is pulled."""
    old, new = of(Request(), tmp_path, "old"), of(Request(("signals",)), tmp_path, "new")
    arm64 = of(Request(), tmp_path, "arm64", "arm64")
    digest = push([Image(old)], f"{registry}/team/sandbox:1", Progress(quiet=True)).digest
    push([Image(new), Image(arm64)], f"{registry}/team/sandbox:2", Progress(quiet=True))
    for before in (f"{registry}/team/sandbox:1", f"{registry}/team/sandbox@{digest}"):
        found = policy("diff", before, f"{registry}/team/sandbox:2", "--arch", "amd64")
        assert found.exit_code == 1, found.stderr
        assert found.stdout.startswith("newly permitted: 4\n  signals: ")
        assert found.stderr == (
            f"  {before}: from the registry {registry}\n"
            f"  {registry}/team/sandbox:2: from the registry {registry}\n"
        )
        found = policy("diff", before, f"{registry}/team/sandbox:2", "--arch", "arm64")
        assert (found.exit_code, found.stdout) == (2, "")
        assert found.stderr == (
            f"  {before}: from the registry {registry}\n"
            f"error: {before}: it is for amd64, and arm64 is asked for\n"
            "hint: name an image for arm64, or say --arch amd64\n"
        )
    found = policy("diff", f"{registry}/team/sandbox:2", str(arm64))
    assert (found.exit_code, found.stdout) == (
        0,
        "newly permitted: nothing\nno longer permitted: nothing\n",
    )


@pytest.mark.usefixtures("docker_config")
def test_a_registrys_image_is_not_the_engines_of_that_name(
    tmp_path: Path, registry: str, engine: docker.DockerClient
) -> None:
    """What a build or a pull left in Docker Engine under the name, older or newer, is not what is pulled."""
    name = f"{registry}/team/sandbox:1"
    old = of(Request(), tmp_path, "old", HOST.name)
    new = of(Request(("signals",)), tmp_path, "new", HOST.name)
    push([Image(old)], name, Progress(quiet=True))
    with in_engine(engine, new, name) as identity:
        found = policy("diff", name, str(new))
        assert (found.exit_code, found.stderr) == (1, f"  {name}: from the registry {registry}\n")
        assert "\n  signals: " in found.stdout
        same = policy("diff", identity, str(new))
        assert (same.exit_code, same.stderr) == (0, f"  {identity}: from Docker Engine\n")


def test_the_engines_image_is_of_the_architecture_that_is_asked_for(
    tmp_path: Path, engine: docker.DockerClient
) -> None:
    """An engine has one image of a name: another architecture's is refused, not compared with."""
    name = "sandbox-tests/policy:1"
    old = of(Request(), tmp_path, "old", HOST.name)
    with in_engine(engine, old, name):
        refused = policy("diff", "--arch", OTHER.name, name, str(old))
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert refused.stderr.startswith(
            f"  {name}: from Docker Engine\n"
            f"error: {name}: it is for {HOST.name}, and {OTHER.name} is asked for\n"
        )
        same = policy("diff", "--arch", HOST.name, name, str(old), "--json")
        assert (same.exit_code, same.stderr) == (0, f"  {name}: from Docker Engine\n")
        assert json.loads(same.stdout)["newly"] == []


def test_an_archive_is_of_the_architecture_that_is_asked_for(tmp_path: Path, plain: Path) -> None:
    """--arch is what the user means: a file of another architecture is the wrong file."""
    arm64 = of(Request(), tmp_path, "arm64", "arm64")
    for names in ((str(arm64), str(plain)), (str(plain), str(arm64))):
        found = policy("diff", "--arch", "amd64", *names)
        assert (found.exit_code, found.stdout) == (2, "")
        assert found.stderr.startswith(f"error: {arm64}: it is for arm64, and amd64 is asked for\nhint: ")


@pytest.mark.usefixtures("docker_config")
def test_what_a_registry_does_not_give_is_no_new_permission(
    tmp_path: Path, plain: Path, registry: str, private_registry: str
) -> None:
    """1 is for a policy that permits more: a tag that is not there, a refusal, no answer are 2."""
    push([Image(of(Request(), tmp_path, "old"))], f"{registry}/team/sandbox:1", Progress(quiet=True))
    for name, message, hint in (
        (f"{registry}/team/sandbox:2", "the registry has no such tag", "it has 1"),
        (f"{registry}/team/other:2", "the registry has no such tag", "nothing was pushed to"),
        (f"{registry}/team/sandbox@sha256:{'0' * 64}", "the registry has no such image", "it has 1"),
        (f"{private_registry}/team/sandbox:1", "asks for credentials", "docker login"),
        ("localhost:1/team/sandbox:1", "", ""),
    ):
        found = policy("diff", "--arch", "amd64", name, str(plain))
        assert (found.exit_code, found.stdout) == (2, ""), name
        error = found.stderr.splitlines()
        assert error[0].startswith("error: ")
        assert message in error[0]
        assert hint in "".join(error[1:])
    assert f"error: {registry}/team/sandbox:2: the registry has no such tag\nhint: it has 1\n" == (
        sandbox_build("inspect", f"{registry}/team/sandbox:2").stderr
    )
    assert sandbox_build("inspect", f"{registry}/team/sandbox:2").exit_code == 2


@pytest.mark.usefixtures("docker_config")
def test_a_registry_that_lies_is_not_believed(tmp_path: Path, front: Front) -> None:
    """What comes for a digest must have it; what is no manifest is told as such; nothing is a traceback."""
    old = of(Request(), tmp_path, "old")
    push([Image(old)], f"{front.host}/team/sandbox:1", Progress(quiet=True))

    def refused(body: bytes, path: str, status: int = 200) -> str:
        front.faults[:] = [Fault("GET", path, status, times=9, body=body)]
        found = policy("diff", f"{front.host}/team/sandbox:1", str(old))
        assert found.exit_code == 2
        assert found.stdout == ""
        assert "Traceback" not in found.stderr
        return found.stderr.splitlines()[0]

    assert refused(b"{}", "/blobs/").endswith(": what it sent is not what its digest says")
    assert refused(b"not JSON", "/manifests/").endswith(": manifests/1: no image is there")
    assert refused(b"[]", "/manifests/").endswith(": manifests/1: no image is there")
    assert refused(b"{}", "/manifests/").endswith(f"sha256:{sha256(b'{}').hexdigest()} is no image")
    index = json.dumps({"manifests": [{"digest": "x", "platform": {"architecture": "mips"}}]}).encode()
    assert refused(index, "/manifests/").endswith(f"1 has no image for {HOST.name}")
    denied = json.dumps({"errors": [{"code": "DENIED", "message": "not yours"}]}).encode()
    assert refused(denied, "/manifests/", 403).endswith("no right to read team/sandbox (DENIED: not yours)")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.yaml", "nowhere.yaml: there is no such file"),
        ("nowhere.tar", "nowhere.tar: there is no such file"),
        (
            "sandbox-tests/nowhere:1",
            "sandbox-tests/nowhere:1: there is no such file or folder, and Docker Engine has no such image",
        ),
        (
            "Upper/Case",
            "Upper/Case: there is no such file or folder, and 'Upper/Case' is not an image reference",
        ),
    ],
)
def test_what_cannot_be_found(plain: Path, name: str, message: str) -> None:
    """One line and a hint, exit code 2, for a file, an image or a registry that is not there."""
    found = policy("diff", name, str(plain))
    assert found.exit_code == 2
    assert found.stderr.splitlines()[0] == f"error: {message}"
    assert found.stderr.splitlines()[1].startswith("hint: name a config.yaml, an image.tar, ")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (
            "localhost:1/x@sha256:12",
            "error: 'sha256:12' is not a digest\nhint: HOST[:PORT]/NAME@sha256:HEX\n",
        ),
        (
            "localhost:1/Upper/x:1",
            "error: 'localhost:1/Upper/x:1' is not an image reference\n"
            "hint: repositories are in lower case: localhost:1/upper/x:1\n",
        ),
    ],
)
def test_a_name_in_a_registry_that_is_none(plain: Path, name: str, error: str) -> None:
    """Neither a registry nor Docker Engine is asked."""
    found = policy("diff", name, str(plain))
    assert (found.exit_code, found.stderr) == (2, error)


def test_no_engine_to_ask(plain: Path, tmp_path: Path) -> None:
    """The error says that nobody was asked, and why."""
    found = sandbox_build(
        *("policy", "diff", "sandbox-tests/nowhere:1", str(plain)),
        env={"DOCKER_HOST": f"unix://{tmp_path}/none"},
    )
    assert found.exit_code == 2
    assert found.stderr.startswith(
        "error: sandbox-tests/nowhere:1: there is no such file or folder, and Docker Engine was not asked: "
    )


def test_an_image_that_is_no_sandbox(tmp_path: Path, plain: Path) -> None:
    """Without the label, or with another thing in it, exit code 2; a tar that is no image, 1."""
    without = labelled(tmp_path, "without", {"some": "label"})
    found = policy("diff", str(without), str(plain))
    assert (found.exit_code, found.stderr.splitlines()[0]) == (
        *(2, f"error: {without}: the image has no label {POLICY_LABEL}"),
    )
    wrong = labelled(tmp_path, "wrong", {POLICY_LABEL: "{}"})
    found = policy("diff", str(plain), str(wrong))
    assert found.exit_code == 2
    assert f"{wrong}: the label {POLICY_LABEL} does not hold a policy" in found.stderr
    other = labelled(tmp_path, "other", policy_labels(effective_policy(Request(), ARM64), ARM64, b""))
    found = policy("diff", str(plain), str(other))
    assert (found.exit_code, found.stderr.splitlines()[0]) == (
        *(2, f"error: {other}: the image is for amd64, and its policy for arm64"),
    )
    (tmp_path / "dist").mkdir()
    found = policy("diff", str(tmp_path / "dist"), str(plain))
    assert (found.exit_code, found.stderr.splitlines()[0]) == (
        *(2, f"error: {tmp_path / 'dist/image.tar'}: there is no such file"),
    )
