"""`sandbox-build deploy`: the command line, what it refuses and what it warns of."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from builder.arch import ARCHES
from builder.cli import commands
from builder.deploy import TARGETS, Request, render_manifest
from builder.errors import UsageError
from tests.unit.manifests import (
    IMAGE,
    IMAGES,
    config_of,
    documents,
    pod_of,
    problems,
    rendered,
    request_of,
)


def run(tmp_path: Path, *words: str, text: str = "") -> Any:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    return CliRunner().invoke(commands, ["deploy", "--config", str(config), *words])


def refusal(tmp_path: Path, *words: str, text: str = "") -> str:
    error = run(tmp_path, *words, text=text).exception
    assert isinstance(error, UsageError)
    assert error.hint
    return error.message


def test_stdout_has_the_manifest_alone(tmp_path: Path) -> None:
    """The manifest is on stdout, warnings on stderr; --output writes the same bytes to a file."""
    result = run(tmp_path, "--target", "compose")
    assert result.exit_code == 0
    assert problems("compose", result.stdout) == []
    assert "has no digest" in result.stderr
    written = run(tmp_path, "--target", "compose", "--output", str(tmp_path / "compose.yaml"))
    assert written.stdout == ""
    assert (tmp_path / "compose.yaml").read_text() == result.stdout


def test_a_digest_is_not_warned_of(tmp_path: Path) -> None:
    """An image that is named by its digest is what runs: nothing is left to say."""
    result = run(tmp_path, "--target", "kubernetes", "--image", IMAGE)
    assert (result.exit_code, result.stderr) == (0, "")
    assert pod_of(result.stdout)["containers"][0]["image"] == IMAGE


def test_no_such_target(tmp_path: Path) -> None:
    """An unknown target is refused, and the known ones are named."""
    result = run(tmp_path, "--target", "nomad")
    assert result.exit_code == 2
    assert all(target in result.stderr for target in TARGETS)


def test_no_target(tmp_path: Path) -> None:
    """Without a target nothing is written; one line names them all."""
    message = refusal(tmp_path)
    assert all(target in message for target in TARGETS)


@pytest.mark.parametrize(("required", "level"), [("chroot", "landlock"), ("landlock", "chroot")])
def test_a_level_that_the_config_excludes(required: str, level: str, tmp_path: Path) -> None:
    """--level contradicts jail.level: every run would be refused, and so is the manifest."""
    text = f"jail: {{level: {required}}}"
    message = refusal(tmp_path, "--target", "kubernetes", "--level", level, text=text)
    assert f"the config requires jail: {{level: {required}}}" in message
    assert run(tmp_path, "--target", "kubernetes", text=text).exit_code == 0


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        (["--target", "lambda", "--level", "chroot"], "", "--level chroot: lambda gives no container"),
        (["--target", "lambda"], "jail: {level: chroot}", "jail: {level: chroot}: lambda gives no container"),
        (["--target", "kubernetes", "--image", "Not A Name"], "", "'Not A Name' is not an image reference"),
        (["--target", "kubernetes", "--image", "box@sha256:12"], "", "is not an image reference"),
        (["--target", "kubernetes", "--image", 'box"\nkind: Pod'], "", "is not an image reference"),
        (["--target", "kubernetes", "--name", "Box_1"], "", "'Box_1' is no name"),
        (["--target", "cloudrun", "--name", "b" * 50], "", "is no name that cloudrun takes"),
        (["--target", "kubernetes", "--namespace", "a b"], "", "'a b' is no namespace's name"),
        (["--target", "compose", "--namespace", "box"], "", "--namespace: compose has none"),
        (["--target", "cloudrun", "--arch", "arm64"], "", "--arch arm64: Cloud Run runs amd64 alone"),
        (["--target", "kubernetes"], "app: {port: 80}", "app.port: 80 wants a privilege"),
        (["--target", "cloudrun"], "limits: {memory: 16GiB}", "cloudrun gives at most 32768MiB"),
        (["--target", "lambda"], "enable_network: true", "code could answer for others"),
        (["--target", "lambda"], "limits: {memory: 10GiB}", "lambda gives at most 10240MiB"),
        (["--target", "lambda"], "worker_timeout: 1000", "worker_timeout: lambda ends a request after 900"),
        (["--target", "knative"], "worker_timeout: 600", "worker_timeout: knative ends a request after 600"),
    ],
)
def test_refused(words: list[str], text: str, message: str, tmp_path: Path) -> None:
    """What cannot be is one error that says what, with a hint; nothing is written."""
    assert message in refusal(tmp_path, *words, text=text)


@pytest.mark.parametrize(
    ("target", "text", "message"),
    [
        ("cloudrun", "app: {grace_s: 10}", "ends an instance 10 seconds after SIGTERM"),
        ("cloudrun", "max_requests: 2000", "at most 1000 at a time"),
        ("knative", "max_requests: 2000", "at most 1000 at a time"),
    ],
)
def test_warned(target: str, text: str, message: str, tmp_path: Path) -> None:
    """What the platform will not do as the config has it is said; the manifest stays valid."""
    manifest, warnings = render_manifest(config_of(text, tmp_path), request_of(target))
    assert any(message in said for said, _ in warnings)
    assert problems(target, manifest) == []
    assert pod_of(manifest)["containerConcurrency"] <= 1000


def test_lambda_wants_an_image_of_ecr(tmp_path: Path) -> None:
    """An image that Lambda could not pull is warned of, one in ECR is not."""
    assert "Amazon ECR alone" in run(tmp_path, "--target", "lambda", "--image", IMAGE).stderr
    result = run(tmp_path, "--target", "lambda", "--image", IMAGES["lambda"])
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(("arch", "named"), [("amd64", "x86_64"), ("arm64", "arm64")])
def test_lambda_names_the_architecture(arch: str, named: str, tmp_path: Path) -> None:
    """Lambda's own names for architectures; Timeout is more than worker_timeout."""
    text = rendered(tmp_path, "lambda", text="worker_timeout: 7.5", arch=ARCHES[arch])
    function = documents(text)[0]["Resources"]["Function"]["Properties"]
    assert function["Architectures"] == [named]
    assert function["Timeout"] == math.ceil(7.5) + 5
    assert function["ImageConfig"] == {"Command": ["lambda"]}


@pytest.mark.parametrize("repository", ["registry.example:5000/team/my_box.v2", "9lives"])
def test_a_repository_becomes_a_name(repository: str, tmp_path: Path) -> None:
    """What the image is called becomes a name that every platform takes."""
    for target in TARGETS:
        config = config_of(f"image: {{repository: '{repository}'}}", tmp_path)
        text, _ = render_manifest(config, Request(target, arch=ARCHES["amd64"]))
        assert re.search(r"\b(my-box-v2|sandbox-9lives)\b", text)
        assert problems(target, text) == []


def test_the_health_check_is_of_the_image(tmp_path: Path) -> None:
    """Compose's health check is the image's own interpreter, isolated, on the service's port."""
    service = documents(rendered(tmp_path, "compose", text="app: {port: 9000}"))[0]["services"][
        "sandbox-python"
    ]
    command = service["healthcheck"]["test"]
    assert command[:6] == ["CMD", "/usr/bin/python3.13", "-I", "-S", "-B", "-c"]
    assert "9000" in command[6]
    compile(command[6], "healthcheck", "exec")


def test_help_teaches() -> None:
    """--help has an example for a platform, and says that nothing is applied."""
    shown = CliRunner().invoke(commands, ["deploy", "--help"]).stdout
    assert "sandbox-build deploy --target kubernetes --image" in shown
    assert "Nothing is applied" in shown
