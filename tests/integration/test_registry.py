"""Pushing to a real registry on loopback: what is there afterwards, and in which order it came."""

from __future__ import annotations

import json
import os
from pathlib import Path

import docker
import pytest

from builder.archive import open_archive
from builder.errors import RegistryError, UsageError
from builder.progress import Progress
from builder.registry import Image, open_registry, push
from tests.integration.conftest import make_archive
from tests.integration.front import Fault, Front
from tests.integration.pushing import (
    push_all,
    push_one,
    quiet,
    refusal,
    remote_digest,
    remote_json,
    remote_manifest,
    remote_tags,
    skopeo,
)

pytestmark = pytest.mark.usefixtures("docker_config")


def test_skopeo_pulls_what_was_pushed(registry: str, archive: Path, tmp_path: Path) -> None:
    """The digest is the registry's, and a copy pulled back has the same config and layers, bit for bit."""
    digest = push_one(archive, f"{registry}/team/sandbox:v1")
    assert remote_digest(registry) == digest
    back = tmp_path / "back"
    skopeo(
        *("copy", "--src-tls-verify=false", "--override-arch=arm64"),
        *(f"docker://{registry}/team/sandbox:v1", f"dir:{back}"),
    )
    with open_archive(archive) as sent:
        assert (back / "manifest.json").read_bytes() == sent.manifest
        for blob in (sent.config, *sent.layers):
            assert (back / blob.digest.removeprefix("sha256:")).read_bytes() == sent.blob(blob).read()


def test_docker_pulls_what_was_pushed(registry: str, archive: Path, engine: docker.DockerClient) -> None:
    """Docker Engine pulls it for arm64, under the digest that push() gave and the image is the archive's."""
    digest = push_one(archive, f"{registry}/team/sandbox:v1")
    image = engine.images.pull(f"{registry}/team/sandbox", "v1", platform="linux/arm64")
    try:
        assert f"{registry}/team/sandbox@{digest}" in image.attrs["RepoDigests"]
        assert image.attrs["Architecture"] == "arm64"
        with open_archive(archive) as sent:
            assert image.id in {sent.config.digest, digest}  # the latter on containerd's store
    finally:
        engine.images.remove(f"{registry}/team/sandbox:v1")


def test_two_architectures(registry: str, archive: Path, tmp_path: Path, engine: docker.DockerClient) -> None:
    """Images of two architectures come under one tag, and each machine gets its own."""
    other = make_archive(tmp_path, "other", [b"for amd64"], architecture="amd64")
    digest = push_all([archive, other], f"{registry}/team/sandbox:v1")
    assert remote_digest(registry) == digest
    manifests = json.loads(remote_manifest(registry))["manifests"]
    digests = {manifest["platform"]["architecture"]: manifest["digest"] for manifest in manifests}
    for path, architecture in ((archive, "arm64"), (other, "amd64")):
        image = engine.images.pull(f"{registry}/team/sandbox", "v1", platform=f"linux/{architecture}")
        try:
            assert image.attrs["Architecture"] == architecture
            with open_archive(path) as sent:
                assert digests[architecture] == sent.descriptor.digest
                assert image.id in {sent.config.digest, digest}  # the latter on containerd's store
        finally:
            engine.images.remove(f"{registry}/team/sandbox:v1")


def test_no_half_index(front: Front, archive: Path, tmp_path: Path) -> None:
    """When one of two images cannot be pushed, the tag stays where it was."""
    other = make_archive(tmp_path, "other", [b"for amd64"], architecture="amd64")
    before = push_one(archive, f"{front.host}/team/sandbox:v1")
    with open_archive(other) as unsent:
        front.faults.append(Fault("PUT", f"/manifests/{unsent.descriptor.digest}", 400))
    with pytest.raises(RegistryError, match="400"):
        push_all([archive, other], f"{front.host}/team/sandbox:v1")
    assert remote_digest(front.host) == before


def test_blobs_are_sent_once(front: Front, archive: Path) -> None:
    """A second push sends the manifest alone: the registry has the blobs."""
    push_one(archive, f"{front.host}/team/sandbox:v1")
    assert front.requests("PUT", "/uploads/") == 3
    push_one(archive, f"{front.host}/team/sandbox:v2")
    assert front.requests("PUT", "/uploads/") == 3
    assert front.requests("PUT", "/manifests/") == 2


def test_no_registry(archive: Path) -> None:
    """A reference without a host is refused: which registry it means is for the user to say."""
    with pytest.raises(UsageError) as refused:
        push_one(archive, "team/sandbox:v1")
    assert refused.value.hint == "name it: HOST[:PORT]/team/sandbox:v1"


def test_platforms_are_dockers(registry: str, archive: Path, tmp_path: Path) -> None:
    """The index names arm64 with its variant, as Docker's own indexes do."""
    other = make_archive(tmp_path, "other", [b"for amd64"], architecture="amd64")
    push_all([other, archive], f"{registry}/team/sandbox:v1")
    assert [entry["platform"] for entry in remote_json(registry)["manifests"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux", "variant": "v8"},
    ]


def test_the_tag_moves_last(front: Front, archive: Path, tmp_path: Path) -> None:
    """Blobs first, then the images, then the tag: nobody ever pulls a half."""
    other = make_archive(tmp_path, "other", [b"for amd64"], architecture="amd64")
    push_all([archive, other], f"{front.host}/team/sandbox:v1")
    puts = [path.partition("?")[0] for path in front.paths("PUT")]
    assert ["/uploads/" in path for path in puts] == [True] * 5 + [False] * 3
    digests = [entry["digest"] for entry in remote_json(front.upstream)["manifests"]]
    assert [path.rpartition("/")[2] for path in puts[5:]] == [*digests, "v1"]


def test_a_layer_of_both_is_sent_once(front: Front, archive: Path, tmp_path: Path) -> None:
    """What both architectures have is one blob; the figures say what was sent, and what was there."""
    shared = bytes(range(256)) * 2000
    other = make_archive(tmp_path, "other", [shared], architecture="amd64")
    with open_archive(archive) as one, open_archive(other) as two:
        assert one.layers[0] == two.layers[0]
        sizes = {blob.digest: blob.size for blob in (one.config, *one.layers, two.config, *two.layers)}
    images = [Image(archive), Image(other)]
    pushed = push(images, f"{front.host}/team/sandbox:v1", quiet())
    assert front.requests("PUT", "/uploads/") == len(sizes) == 4
    assert (pushed.sent_bytes, pushed.skipped_bytes) == (sum(sizes.values()), 0)
    pushed = push(images, f"{front.host}/team/sandbox:v2", quiet())
    assert (pushed.sent_bytes, pushed.skipped_bytes) == (0, sum(sizes.values()))


def test_a_push_is_tried_before_the_build(front: Front) -> None:
    """Who may not push learns of it before anything is built; the upload that asks leaves nothing behind."""
    open_registry(f"{front.host}/team/sandbox:v1")
    assert front.requests("POST", "/uploads/") == front.requests("DELETE", "/uploads/") == 1
    front.faults.append(Fault("POST", "/uploads/", 403))
    with pytest.raises(RegistryError, match="no right to push to team/sandbox"):
        open_registry(f"{front.host}/team/sandbox:v1")


def test_reading_asks_for_no_right_to_push(front: Front) -> None:
    """A user who may only read can."""
    front.faults.append(Fault("POST", "", 403, times=9))
    open_registry(f"{front.host}/team/sandbox:v1", read_only=True)
    assert front.requests("POST") == 0


# --if-absent


def test_absent(registry: str, archive: Path) -> None:
    """A tag that is not there is set."""
    digest = push_one(archive, f"{registry}/team/sandbox:v1", if_absent=True)
    assert remote_digest(registry) == digest


def test_there_already(front: Front, archive: Path) -> None:
    """A tag that names the very image is left as it is, and nothing is written."""
    digest = push_one(archive, f"{front.upstream}/team/sandbox:v1")
    assert push_one(archive, f"{front.host}/team/sandbox:v1", if_absent=True) == digest
    assert {method for method, _, _ in front.seen} == {"GET", "HEAD"}


def test_another_is_there(front: Front, archive: Path, tmp_path: Path) -> None:
    """One that names another image is not moved: the error names both, and nothing was sent."""
    before = push_one(archive, f"{front.upstream}/team/sandbox:v1")
    other = make_archive(tmp_path, "other", [b"another image"])
    with open_archive(other) as unsent:
        ours = unsent.descriptor.digest
    error = refusal(other, f"{front.host}/team/sandbox:v1", if_absent=True)
    assert error.message == (
        f"{front.host}/team/sandbox:v1 is there already: it names {before}, and this is {ours}"
    )
    assert error.hint
    assert remote_digest(front.upstream) == before
    assert {method for method, _, _ in front.seen} == {"GET", "HEAD"}


@pytest.mark.parametrize("hidden", [set(), {"docker-content-digest"}], ids=["told", "untold"])
def test_somebody_is_faster(front: Front, archive: Path, tmp_path: Path, hidden: set[str]) -> None:
    """A tag that somebody sets while we push is not moved, whether or not the registry names digests."""
    other = make_archive(tmp_path, "other", [b"another image"])
    front.hidden = hidden
    reference = f"{front.upstream}/team/sandbox:v1"
    front.meanwhile.append(("POST", "/uploads/", lambda: push_one(other, reference)))
    error = refusal(archive, f"{front.host}/team/sandbox:v1", if_absent=True)
    with open_archive(other) as theirs:
        assert f"it names {theirs.descriptor.digest}" in error.message
        assert remote_digest(front.upstream) == theirs.descriptor.digest


def test_somebody_pushes_the_same(front: Front, archive: Path) -> None:
    """Who pushes the very image at the same time is no obstacle."""
    reference = f"{front.upstream}/team/sandbox:v1"
    front.meanwhile.append(("POST", "/uploads/", lambda: push_one(archive, reference)))
    digest = push_one(archive, f"{front.host}/team/sandbox:v1", if_absent=True)
    assert remote_digest(front.upstream) == digest
    assert front.requests("PUT", "/manifests/") == 0


def test_without_if_absent_the_tag_moves(registry: str, archive: Path, tmp_path: Path) -> None:
    """The control: a tag is moved unless one asks for it not to be."""
    push_one(archive, f"{registry}/team/sandbox:v1")
    other = make_archive(tmp_path, "other", [b"another image"])
    assert push_one(other, f"{registry}/team/sandbox:v1") == remote_digest(registry)
    assert remote_tags(registry) == {"v1"}


# What a person sees


def test_a_line_for_each_architecture(
    registry: str, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each says how far it is; at its end all of its bytes are sent."""
    other = make_archive(tmp_path, "other", [os.urandom(16 << 20)], architecture="amd64")
    with open_archive(other) as sent:
        total = sum(blob.size for blob in (sent.config, *sent.layers)) / 1e6
    images = [Image(archive), Image(other)]
    push(images, f"{registry}/team/sandbox:v1", Progress(verbose=True))
    lines = capsys.readouterr().err.splitlines()
    for name in ("arm64", "amd64"):
        assert f"* {name}: pushing {registry}/team/sandbox:v1" in lines
    ours = [line for line in lines if line.startswith("< amd64: ")]
    assert ours[-1] == f"< amd64: {total:.1f} of {total:.1f} MB"
    assert 10 < len(ours) <= 51
