"""`sandbox-build policy` of real images, and against this machine's kernel."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from builder.arch import host_arch
from builder.archive import open_archive
from builder.errors import VerificationFailed
from builder.policies import of_image
from builder.seccomp import Request, compile_policy, effective_policy
from builder.seccomp.bpf import evaluate
from builder.seccomp.kernel import answers
from tests.integration.policies import labelled, policy

HOST = host_arch()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("syscalls: {groups: [processes]}\nenable_network: true\n")
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
