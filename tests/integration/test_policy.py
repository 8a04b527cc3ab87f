"""`sandbox-build policy` against real images, a real registry, this machine's kernel and Docker Engine."""

from __future__ import annotations

import json
import os
import re
import shutil
from hashlib import sha256
from pathlib import Path

import docker
import pytest

from builder.arch import ARCHES, host_arch
from builder.archive import BuiltImage, open_archive, write_archive
from builder.errors import VerificationFailed
from builder.policies import of_image
from builder.progress import Progress
from builder.registry import Image, push
from builder.seccomp import Request, compile_policy, effective_policy
from builder.seccomp.bpf import evaluate
from builder.seccomp.kernel import answers
from builder.seccomp.snapshot import POLICY_LABEL, policy_labels
from tests.conftest import Result, sandbox_build
from tests.integration.front import Fault, Front

HOST = host_arch()
ARM64 = ARCHES["arm64"]


def policy(*arguments: str) -> Result:
    return sandbox_build("policy", *arguments)


def labelled(folder: Path, name: str, labels: dict[str, str], architecture: str = "amd64") -> Path:
    """An archive without layers whose image has these labels."""
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    path = folder / f"{name}.tar"
    write_archive(BuiltImage(json.dumps(config).encode(), ()), path, f"sandbox-test:{name}")
    return path


def of(request: Request, folder: Path, name: str, arch: str = "amd64") -> Path:
    """An archive whose image says that it has the policy of `request`."""
    made = effective_policy(request, ARCHES[arch])
    return labelled(folder, name, policy_labels(made, ARCHES[arch], b""), arch)


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


# show


def test_show_says_which_line_brought_a_group(config: Path) -> None:
    """The text is the result and on stdout; nothing is on stderr."""
    shown = policy("show", "--config", str(config), "--arch", "arm64")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "its user may read. (default)\n" in shown.stdout
    assert "\nnetwork: Code reaches every address" in shown.stdout
    assert f"({config}:2)\n" in shown.stdout
    assert f"({config}:1)\n" in shown.stdout


def test_the_digest_is_the_images_own(image: Path) -> None:
    """What `show` prints for the config that the session's image was built from is what its label says."""
    with open_archive(image) as archive, archive.blob(archive.config) as file:
        labels = json.load(file)["config"]["Labels"]
    shown = policy("show", "--arch", HOST.name)
    assert f"\npolicy.bpf: {labels['sandbox-build.policy.digest']}\n" in shown.stdout


# diff


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
        found = policy("diff", before, f"{registry}/team/sandbox:2", "--arch", "arm64")
        assert (found.exit_code, found.stderr) == (0, "")
        assert "amd64 is compared with arm64" in found.stdout


@pytest.mark.usefixtures("docker_config")
def test_a_registry_that_lies_is_not_believed(tmp_path: Path, front: Front) -> None:
    """What comes for a digest must have it; what is no manifest is told as such; nothing is a traceback."""
    old = of(Request(), tmp_path, "old")
    push([Image(old)], f"{front.host}/team/sandbox:1", Progress(quiet=True))

    def refused(body: bytes, path: str, status: int = 200) -> str:
        front.faults[:] = [Fault("GET", path, status, times=9, body=body)]
        found = policy("diff", f"{front.host}/team/sandbox:1", str(old))
        assert found.exit_code == 1
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
            "sandbox-tests/nowhere:1: Docker Engine does not have it, and it names no registry",
        ),
        ("localhost:1/x@sha256:12", "localhost:1/x@sha256:12: 'sha256:12' is not a digest"),
        ("Upper/Case", "Upper/Case: 'Upper/Case' is not an image reference"),
    ],
)
def test_what_cannot_be_found(plain: Path, name: str, message: str) -> None:
    """One line and a hint, exit code 2, for a file, an image or a registry that is not there."""
    found = policy("diff", name, str(plain))
    assert found.exit_code == 2
    assert found.stderr.splitlines()[0] == f"error: {message}"
    assert found.stderr.splitlines()[1].startswith("hint: name a config.yaml, an image.tar, ")


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


# test


def test_the_shipped_policy_passes() -> None:
    """Both architectures, our vectors and the whole table, and this machine's kernel for its own."""
    found = policy("test", "--arch", "amd64", "--arch", "arm64", "--json")
    assert found.exit_code == 0, found.stderr
    reports = json.loads(found.stdout)
    assert sorted(reports) == ["amd64", "arm64"]
    for name, report in reports.items():
        assert report["disagreements"] == []
        assert report["table"] > 4000
        assert report["vectors"] > 250
        assert (report["kernel"] > 4000) == (name == HOST.name)
    said = policy("test", "--arch", HOST.name)
    assert said.stdout.startswith(f"{HOST.name}: {reports[HOST.name]['table']} calls of the table and ")


def test_the_image_passes(image: Path, tmp_path: Path) -> None:
    """The policy.bpf that is in the image does what the image's label says."""
    vectors = tmp_path / "vectors.yaml"
    vectors.write_text("vectors:\n  - {call: connect, expect: deny}\n  - {call: mkdirat, expect: allow}\n")
    found = policy("test", "--image", str(image), str(vectors))
    assert found.exit_code == 0, found.stderr
    assert "in 4 programs" in found.stdout


@pytest.mark.parametrize("where", ["policy.bpf", "runtime.json", "label"])
def test_an_image_whose_parts_are_not_of_one_policy(
    where: str, root: Path, image: Path, tmp_path: Path
) -> None:
    """A changed filter, digest or label is found before anything is tried: exit code 4."""
    copy = tmp_path / "root"
    (copy / "sandbox").mkdir(parents=True)
    for name in ("policy.bpf", "runtime.json"):
        shutil.copyfile(root / "sandbox" / name, copy / "sandbox" / name)
    assert of_image(image, copy).digest.startswith("sha256:")
    with open_archive(image) as archive, archive.blob(archive.config) as file:
        labels = json.load(file)["config"]["Labels"]
    if where == "policy.bpf":
        content = (copy / "sandbox/policy.bpf").read_bytes()
        (copy / "sandbox/policy.bpf").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif where == "runtime.json":
        facts = json.loads((copy / "sandbox/runtime.json").read_bytes())
        (copy / "sandbox/runtime.json").write_text(json.dumps(facts | {"policy_sha256": "0" * 64}))
    else:
        image = labelled(tmp_path, "other", labels | {"sandbox-build.policy.digest": "sha256:0"})
    with pytest.raises(VerificationFailed, match=r"policy\.bpf is sha256:.*, and its .* says"):
        of_image(image, copy)


def test_a_vector_that_is_not_met(tmp_path: Path) -> None:
    """Exit code 4, and each call with its place, what is wanted, and who says otherwise."""
    vectors = tmp_path / "vectors.yaml"
    vectors.write_text(
        "vectors:\n"
        "  - {call: mkdirat, expect: allow}\n"
        "  - {call: socket, arguments: [AF_INET, SOCK_STREAM], expect: allow, why: we need it}\n"
    )
    found = policy("test", str(vectors), "--arch", HOST.name)
    assert found.exit_code == 4
    lines = found.stderr.splitlines()
    told = [line for line in lines if line.startswith(f"{vectors}:3: socket (")]
    assert len(told) == 8  # four programs, the interpreter and the kernel
    assert {line.rpartition(" (")[0].partition(": allow is wanted, ")[2] for line in told} == {
        f"and the {who} says {what}"
        for who in ("interpreter", "kernel")
        for what in ("deny (EPERM)", "asks the supervisor")
    }
    assert lines[-2] == "error: 8 calls are answered otherwise than they must be"
    assert not any(line.startswith(f"{vectors}:2:") for line in lines)
    without = policy("test", str(vectors), "--arch", HOST.name, "--no-kernel")
    assert "error: 4 calls are answered otherwise than they must be" in without.stderr


def test_a_file_of_vectors_that_is_wrong(tmp_path: Path) -> None:
    """Exit code 2 with every problem, and nothing is tried."""
    vectors = tmp_path / "vectors.yaml"
    vectors.write_text("vectors:\n  - {call: mkdiratt, expect: allow}\n  - {call: read, expect: yes}\n")
    found = policy("test", str(vectors))
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.splitlines() == [
        f"error: {vectors}:2: vectors[0].call: no system call named 'mkdiratt' on amd64 or arm64",
        "hint: did you mean mkdirat?",
        f"error: {vectors}:3: vectors[1].expect: True is not understood",
        "hint: one of allow, deny, enosys, kill",
    ]


def test_the_kernel_is_asked_without_privilege() -> None:
    """A process of an ordinary user, without any capability, has the same answers."""
    program = compile_policy(effective_policy(Request(), HOST), HOST)
    calls = [(number, ()) for number in range(300)]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            wanted = [evaluate(program, HOST.audit_arch, number) for number, _ in calls]
            code = 0 if answers(program, calls) == wanted else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("command", ["show", "diff", "test", "export"])
def test_help_teaches_by_example(command: str) -> None:
    """Each command shows at least one command line to copy, and its exit codes where they differ."""
    text = policy(command, "--help").stdout
    assert f"sandbox-build policy {command}" in text
    assert ("Exit codes:" in text) == (command in ("diff", "test"))
