"""One command builds both architectures and pushes one reference, or pushes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound

from builder.arch import host_arch
from builder.archive import open_archive
from tests.conftest import Result, sandbox_build
from tests.integration.pushing import remote_digest, remote_json, remote_tags
from tests.integration.servers import wait_for

BOTH = ("--arch", "amd64", "--arch", "arm64")
LISTED = "python_lib_path: [/usr/share/ca-certificates/mozilla/{}]\n"
ROOTS = ("ISRG_Root_X1.crt", "ISRG_Root_X2.crt")


def built(output: Path, *arguments: str, config: str = "") -> Result:
    """A build of both architectures, by the oci driver unless `arguments` say otherwise."""
    path = output.parent / f"{output.name}.yaml"
    path.write_text(config)
    driver = () if "--driver" in arguments else ("--driver", "oci")
    return sandbox_build("--config", str(path), "--output", str(output), *BOTH, *driver, *arguments)


def digests(result: Result) -> list[str]:
    """Of what a build printed: each image, then what was pushed."""
    assert result.exit_code == 0, result.stderr
    return [line.rpartition("@")[2] for line in result.stdout.splitlines()]


def sent_mb(result: Result) -> float:
    found = re.search(r"([0-9.]+) MB sent", result.stderr)
    assert found is not None, result.stderr
    return float(found[1])


@pytest.mark.parametrize("driver", ["oci", "docker"])
def test_one_reference(driver: str, registry: str, engine: docker.DockerClient, tmp_path: Path) -> None:
    """An index over both images, each of which Docker pulls as what it is."""
    name = f"{registry}/team/sandbox:v1"
    done = built(tmp_path / "dist", "--driver", driver, "--push", name)
    try:
        amd64, arm64, index = digests(done)
        assert remote_digest(registry) == index
        entries = remote_json(registry)["manifests"]
        assert [(one["platform"]["architecture"], one["digest"]) for one in entries] == [
            ("amd64", amd64),
            ("arm64", arm64),
        ]
        for arch in ("amd64", "arm64"):
            pulled = engine.images.pull(name, platform=f"linux/{arch}")
            assert pulled.attrs["Architecture"] == arch
            with open_archive(tmp_path / "dist" / arch / "image.tar") as archive:
                assert pulled.id == archive.config.digest
    finally:
        with suppress(ImageNotFound):
            engine.images.remove(name, force=True)


def test_both_drivers_push_the_same(registry: str, tmp_path: Path) -> None:
    """The digest of the index, too, and nothing has to be sent a second time."""
    first = built(tmp_path / "oci", "--push", f"{registry}/team/sandbox:v1")
    second = built(tmp_path / "docker", "--driver", "docker", "--push", f"{registry}/team/sandbox:v2")
    try:
        assert digests(first) == digests(second)
        assert (sent_mb(first) > 20, sent_mb(second)) == (True, 0)
    finally:
        name = f"{registry}/team/sandbox:v2"
        subprocess.run(["docker", "image", "rm", "--force", name], check=False, capture_output=True)


def test_docker_has_this_machines_image(engine: docker.DockerClient, tmp_path: Path) -> None:
    """Of both under one name, whichever was asked for last and whichever is ready first."""
    name = f"sandbox-tests/both:{os.getpid()}"
    (tmp_path / "config.yaml").write_text("")
    options = ["--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "dist")]
    options += ["--driver", "docker", "--tag", name]
    try:
        for arches in (BOTH, ("--arch", "arm64", "--arch", "amd64")) * 2:
            done = sandbox_build(*options, *arches)
            assert done.exit_code == 0, done.stderr
            assert engine.images.get(name).attrs["Architecture"] == host_arch().name
    finally:
        with suppress(ImageNotFound):
            engine.images.remove(name, force=True)


def test_provenance_is_of_the_lock_that_is_there(tmp_path: Path) -> None:
    """Another lock with the same packages is another statement, though the image is the same."""
    config = tmp_path / "config.yaml"
    config.write_text("")
    options = ("--config", str(config), "--output", str(tmp_path / "dist"), "--arch", "amd64")
    images = []
    for arches in (BOTH, BOTH[:2]):
        locked = sandbox_build("lock", "--config", str(config), *arches)
        assert locked.exit_code == 0, locked.stderr
        images += digests(sandbox_build(*options, "--driver", "oci"))
        statement = json.loads((tmp_path / "dist/amd64/provenance.json").read_text())
        used = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        lock = hashlib.sha256((tmp_path / "config.lock").read_bytes()).hexdigest()
        assert [one["digest"]["sha256"] for one in used if one["name"] == "config.lock"] == [lock]
        (tmp_path / "config.lock").unlink()
    assert images[0] == images[1]


def test_a_failing_architecture_leaves_the_tag(registry: str, tmp_path: Path) -> None:
    """No half index and no moved tag: what is listed is there for amd64 alone."""
    name = f"{registry}/team/sandbox:v1"
    good = digests(built(tmp_path / "dist", "--push", name))
    tags = remote_tags(registry)
    listed = "python_lib_path: [/usr/lib/x86_64-linux-gnu/libz.so.1]\n"
    failed = built(tmp_path / "dist", "--push", name, config=listed)
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert "error: " in failed.stderr
    assert "/usr/lib/x86_64-linux-gnu/libz.so.1" in failed.stderr
    assert "pushing" not in failed.stderr
    assert (remote_digest(registry), remote_tags(registry)) == (good[-1], tags)
    # The control: for amd64 alone it builds.
    alone = sandbox_build(
        *("--config", str(tmp_path / "dist.yaml"), "--output", str(tmp_path / "alone")),
        *("--arch", "amd64", "--driver", "oci"),
    )
    assert alone.exit_code == 0, alone.stderr


def test_what_a_changed_line_sends(registry: str, tmp_path: Path) -> None:
    """Another listed path sends that path and what describes the image: of each less than 0.1 MB."""
    name = f"{registry}/team/sandbox:v1"
    before = built(tmp_path / "dist", "--push", name, config=LISTED.format(ROOTS[0]))
    after = built(tmp_path / "dist", "--push", name, config=LISTED.format(ROOTS[1]))
    assert digests(before) != digests(after)
    for arch in ("amd64", "arm64"):
        (note,) = re.findall(rf"linux/{arch}: ([0-9.]+) MB of layers are new \((.*?)\)", after.stderr)
        assert (float(note[0]) < 0.1, note[1]) == (True, "paths, config")
    assert sent_mb(after) < 0.2


def test_if_absent(registry: str, tmp_path: Path) -> None:
    """A tag that is there stays what it is; the very same images are no failure."""
    options = ("--push", f"{registry}/team/sandbox:v1", "--if-absent")
    first = digests(built(tmp_path / "dist", *options))
    assert digests(built(tmp_path / "dist", *options)) == first
    refused = built(tmp_path / "dist", *options, config=LISTED.format(ROOTS[0]))
    assert refused.exit_code == 1
    assert f"names {first[-1]}" in refused.stderr
    assert remote_digest(registry) == first[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--if-absent",), "--if-absent is about what is pushed"),
        (("--tag", "a:1", "--push", "b:2"), "--tag says a:1, and --push says b:2"),
        (("--push", "sandbox:v1"), "which registry?"),
        (("--push", "localhost:1/a", "--registry-cache", "localhost:1/a:latest"), "both name localhost:1/a"),
    ],
)
def test_wrong_options(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    """What cannot be meant is refused before anything is built."""
    done = built(tmp_path / "dist", *options)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (tmp_path / "dist").exists()


def test_a_signer_is_called_with_the_index(registry: str, tmp_path: Path) -> None:
    """With NAME@DIGEST of what was pushed, as words of its own; one that is missing ends the build early."""
    signer = tmp_path / "signer"
    signer.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/signed\n')
    signer.chmod(0o755)
    name = f"{registry}/team/sandbox:v1"
    config = "image: {sign: [%s, sign, '{image}']}\n"
    done = built(tmp_path / "dist", "--push", name, config=config % signer)
    assert (tmp_path / "signed").read_text() == f"sign\n{name}@{digests(done)[-1]}\n"
    missing = built(tmp_path / "dist", "--push", name, config=config % "no-such-signer")
    assert missing.exit_code == 3
    assert "building" not in missing.stderr


def test_interrupted(tmp_path: Path) -> None:
    """A service manager's SIGTERM ends both, and leaves neither half an image nor a process."""
    (tmp_path / "config.yaml").write_text("")
    output = tmp_path / "dist"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "builder", "--config", str(tmp_path / "config.yaml")),
            *("--output", str(output), *BOTH, "--driver", "oci"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            if "building with driver" in line:
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.wait(timeout=60) == 130, rest
    assert "interrupted" in rest
    assert not output.exists() or [path.name for path in output.iterdir()] == []
    wait_for(lambda: not has_processes(process.pid))  # those of the assembler end by themselves


def has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_documents_are_attached(registry: str, tmp_path: Path) -> None:
    """Each image's SBOMs and provenance are among its referrers, and `inspect` finds that they agree."""
    name = f"{registry}/team/sandbox:v1"
    done = digests(built(tmp_path / "dist", "--push", name))
    for digest in done[:2]:
        referrers = remote_json(registry, ":" + digest.replace(":", "-"))["manifests"]
        assert {one["artifactType"] for one in referrers} >= {
            "application/vnd.cyclonedx+json",
            "application/spdx+json",
            "application/vnd.in-toto+json",
        }
    shown = sandbox_build("inspect", name, "--json")
    assert shown.exit_code == 0, shown.stderr
    assert json.dumps(json.loads(shown.stdout)).count(done[0]) >= 1
