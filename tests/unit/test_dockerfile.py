"""render_dockerfile: golden files, and values that try to be more than values."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from builder.arch import ARCHES
from builder.dockerfile import DockerfileInputs, entrypoint, render_dockerfile
from builder.errors import ConfigError

GOLDEN = Path(__file__).with_name("golden")
HADOLINT = Path(sys.executable).with_name("hadolint")

LABELS = {
    "org.opencontainers.image.title": "sandbox-python",
    "org.opencontainers.image.version": "latest",
    "com.example.motto": 'it costs $5, "they" said \\o/',
}

CASES = {
    f"Dockerfile.{base}-{arch.name}": DockerfileInputs(
        arch=arch,
        python_path=python_path,
        image=image,
        base=image or "debian:trixie",
        packages=True,
        # As an amd64 machine renders it.
        foreign=arch.name == "arm64",
        labels=LABELS,
    )
    for arch in ARCHES.values()
    for base, image, python_path in (
        ("debian", None, "/usr/bin/python3.13"),
        ("image", "python:3.13-slim-bookworm", "/usr/local/bin/python3.13"),
    )
}
"""Golden file -> what it is rendered from."""


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    """Each architecture and kind of base has the Dockerfile that was read and agreed on."""
    assert render_dockerfile(CASES[name]) == (GOLDEN / name).read_text()


def lint(text: str) -> str:
    found = subprocess.run(
        [HADOLINT, "--no-color", "-"], input=text, capture_output=True, text=True, check=False
    )
    return found.stdout + found.stderr


@pytest.mark.parametrize("name", CASES)
def test_hadolint_finds_nothing(name: str) -> None:
    """hadolint passes every rendered Dockerfile, and would find it if one of our reasons were missing."""
    text = render_dockerfile(CASES[name])
    assert lint(text) == ""
    assert "DL3029" in lint(text.replace("# hadolint ignore=DL3029\n", ""))


@pytest.mark.parametrize("name", CASES)
def test_old_frontends(name: str) -> None:
    """BuildKit of Docker 20.10 takes it: no frontend is pulled, and there is no heredoc."""
    text = render_dockerfile(CASES[name])
    assert "syntax=" not in text
    assert "<<" not in text


@pytest.mark.parametrize("name", CASES)
def test_only_the_assembler_runs(name: str) -> None:
    """One program runs in a build, in the stage of the machine that builds."""
    lines = render_dockerfile(CASES[name]).splitlines()
    runs = [number for number, line in enumerate(lines) if line.startswith("RUN")]
    stages = [line for line in lines[: runs[0]] if line.startswith("FROM")]
    assert len(runs) == 1
    assert stages[-1].startswith("FROM --platform=$BUILDPLATFORM ")


def test_label_order() -> None:
    """Labels in another order give the same bytes."""
    inputs = CASES["Dockerfile.debian-amd64"]
    other = replace(inputs, labels=dict(reversed(LABELS.items())))
    assert render_dockerfile(other) == render_dockerfile(inputs)


@pytest.mark.parametrize(
    "path", ['/opt/a"b', "/opt/$HOME/python", "/opt/a\nRUN evil", "/opt/back\\", "/opt/ü", "/opt/'a'", "/a]"]
)
def test_paths_stay_paths(path: str) -> None:
    """Whatever the interpreter's path is, there are the same instructions, and the path comes out whole."""
    lines = render_dockerfile(DockerfileInputs(ARCHES["amd64"], path)).splitlines()
    plain = render_dockerfile(DockerfileInputs(ARCHES["amd64"], "/python")).splitlines()
    assert [line.split(" ")[0] for line in lines] == [line.split(" ")[0] for line in plain]
    assert json.loads(lines[-1].removeprefix("ENTRYPOINT ")) == list(entrypoint(path))


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("plain", '"plain"'),
        ('a "word"', r'"a \"word\""'),
        ("$HOME ${HOME}", r'"\$HOME \${HOME}"'),
        ("ends in \\", r'"ends in \\"'),
        (r"\$", r'"\\\$"'),
        ("# 'x' `y`", "\"# 'x' `y`\""),
        ("", '""'),
    ],
)
def test_label_values(value: str, quoted: str) -> None:
    """A label's value is one quoted word. (That BuildKit reads it back whole is an integration test.)"""
    inputs = DockerfileInputs(ARCHES["amd64"], "/python", labels={"a": value})
    assert f"LABEL a={quoted}\n" in render_dockerfile(inputs)


@pytest.mark.parametrize(
    "inputs",
    [
        DockerfileInputs(ARCHES["amd64"], "/python", labels={"a": "x\nRUN evil"}),
        DockerfileInputs(ARCHES["amd64"], "/python", labels={"a": "x\rRUN evil"}),
        DockerfileInputs(ARCHES["amd64"], "/python", labels={"a": "x\u2028RUN evil"}),
        DockerfileInputs(ARCHES["amd64"], "/python", labels={"a": "\x00"}),
        DockerfileInputs(ARCHES["amd64"], "/python", labels={"a b": "x"}),
        DockerfileInputs(ARCHES["amd64"], "/python", labels={"a=b": "x"}),
        DockerfileInputs(ARCHES["amd64"], "/python", labels={"a\nRUN evil": "x"}),
        DockerfileInputs(ARCHES["amd64"], "/python", labels={"": "x"}),
        DockerfileInputs(ARCHES["amd64"], "/python", image="python:3.13\nRUN evil"),
        DockerfileInputs(ARCHES["amd64"], "/python", image="python:$TAG"),
        DockerfileInputs(ARCHES["amd64"], "/python", image="python AS target"),
        DockerfileInputs(ARCHES["amd64"], "/python", image="--platform=linux/s390x"),
    ],
    ids=repr,
)
def test_what_a_dockerfile_cannot_hold(inputs: DockerfileInputs) -> None:
    """A value that cannot be quoted is refused, with a hint, and never written."""
    with pytest.raises(ConfigError) as refused:
        render_dockerfile(inputs)
    ((message, hint),) = refused.value.problems
    assert message.isprintable()
    assert hint
