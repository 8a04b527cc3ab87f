"""What is attached to an image, on registries with the referrers API and without: pushed, listed, read."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.archive import open_archive
from builder.errors import RegistryError, UsageError
from builder.registry import (
    Attachment,
    Image,
    Referrer,
    find_referrers,
    get_config,
    get_document,
    get_image,
    get_images,
    open_image,
    push,
)
from builder.registry.referrers import merged
from tests.integration.conftest import make_archive
from tests.integration.front import Fault, Front
from tests.integration.pushing import push_one, quiet, remote_json, remote_tags, skopeo

pytestmark = pytest.mark.usefixtures("docker_config")

LIMIT = 1 << 20
BILL = Attachment(
    "application/vnd.cyclonedx+json", "application/vnd.cyclonedx+json", b'{"a": 1}', "bill.json"
)
ORIGIN = Attachment(
    "application/vnd.in-toto+json", "application/vnd.in-toto+json", b"{}", "origin.json", {"x": "y"}
)


@pytest.fixture(params=["api", "tag"])
def host(request: pytest.FixtureRequest, front: Front) -> str:
    """A registry that lists referrers, and one that does not."""
    front.lists_referrers = request.param == "api"
    return front.host


def attached(archive: Path, host: str, *attachments: Attachment, tag: str = "v1") -> str:
    """Pushes with `attachments`; returns the digest."""
    return push([Image(archive, attachments)], f"{host}/team/sandbox:{tag}", quiet()).digest


def documents(host: str, digest: str) -> dict[str, bytes]:
    """What is attached, by its artifact type."""
    repository, _ = open_image(f"{host}/team/sandbox")
    return {
        found.artifact_type: get_document(repository, found, digest, LIMIT).content
        for found in find_referrers(repository, digest)
    }


def test_there_and_back(host: str, archive: Path) -> None:
    """Every document comes back as it went, with its name and type; each type can be asked for alone."""
    digest = attached(archive, host, BILL, ORIGIN)
    repository, name = open_image(f"{host}/team/sandbox:v1")
    found = {one.artifact_type: one for one in find_referrers(repository, digest)}
    assert set(found) == {BILL.artifact_type, ORIGIN.artifact_type}
    for sent in (BILL, ORIGIN):
        read = get_document(repository, found[sent.artifact_type], digest, LIMIT)
        assert (read.media_type, read.file_name, read.content) == (
            sent.media_type,
            sent.file_name,
            sent.content,
        )
    assert found[ORIGIN.artifact_type].annotations["x"] == "y"
    assert find_referrers(repository, digest, BILL.artifact_type) == (found[BILL.artifact_type],)
    assert find_referrers(repository, digest, "text/plain") == ()
    assert repository.find_digest(name) == digest


def test_each_architecture_has_its_own(host: str, archive: Path, tmp_path: Path) -> None:
    """What is attached to one image of an index is not attached to the other."""
    other = make_archive(tmp_path, "other", [b"for amd64"], architecture="amd64")
    images = [Image(archive, [BILL]), Image(other, [replace(BILL, content=b"for amd64")])]
    index = push(images, f"{host}/team/sandbox:v1", quiet()).digest
    repository, name = open_image(f"{host}/team/sandbox:v1")
    found = {platform["architecture"]: image for platform, image in get_images(repository, name)}
    assert documents(host, found["arm64"].descriptor.digest) == {BILL.artifact_type: BILL.content}
    assert documents(host, found["amd64"].descriptor.digest) == {BILL.artifact_type: b"for amd64"}
    assert documents(host, index) == {}
    assert get_config(repository, get_image(repository, name, "amd64"))["architecture"] == "amd64"


def test_pushed_again(host: str, archive: Path) -> None:
    """The same attachments, pushed once more, are there once."""
    digest = attached(archive, host, BILL, ORIGIN)
    assert attached(archive, host, BILL, ORIGIN, tag="v2") == digest
    repository, _ = open_image(f"{host}/team/sandbox")
    assert len(find_referrers(repository, digest)) == 2


def test_nothing_is_attached(host: str, archive: Path) -> None:
    """An image without attachments has none, and no tag but its own."""
    digest = push_one(archive, f"{host}/team/sandbox:v1")
    assert documents(host, digest) == {}
    assert remote_tags(host) == {"v1"}


def test_the_form_is_that_of_the_specification(front: Front, archive: Path) -> None:
    """An OCI 1.1 artifact, byte for byte what other tools read; the list lies under the fallback tag."""
    digest = attached(archive, front.host, BILL)
    tag = digest.replace(":", "-")
    assert remote_tags(front.upstream) == {"v1", tag}
    (entry,) = remote_json(front.upstream, f":{tag}")["manifests"]
    assert entry["artifactType"] == BILL.artifact_type
    artifact = remote_json(front.upstream, f"@{entry['digest']}")
    with open_archive(archive) as sent:
        assert artifact["subject"] == sent.descriptor.to_json()
    assert artifact["artifactType"] == BILL.artifact_type
    assert artifact["config"] == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
    }
    (layer,) = artifact["layers"]
    assert layer["digest"] == f"sha256:{hashlib.sha256(BILL.content).hexdigest()}"
    assert layer["annotations"] == {"org.opencontainers.image.title": "bill.json"}


def test_with_the_api_there_is_no_second_tag(front: Front, archive: Path) -> None:
    """A registry that keeps the list itself gets none of ours."""
    front.lists_referrers = True
    attached(archive, front.host, BILL)
    assert remote_tags(front.upstream) == {"v1"}


def test_attachments_before_the_tag(front: Front, archive: Path) -> None:
    """When one cannot be attached, the tag is not set."""
    with open_archive(archive) as opened:
        own = f"/manifests/{opened.descriptor.digest}"
    front.faults.append(Fault("PUT", "/manifests/", 400, after=1))
    with pytest.raises(RegistryError, match="400"):
        attached(archive, front.host, BILL)
    assert front.paths("PUT", "/manifests/")[0].endswith(own)
    assert remote_tags(front.upstream) == set()


def test_a_long_list_comes_in_pages(front: Front, archive: Path) -> None:
    """All of them are read; a list without an end is refused."""
    front.lists_referrers, front.page = True, 2
    many = [replace(BILL, artifact_type=f"application/x-{number}") for number in range(5)]
    digest = attached(archive, front.host, *many)
    repository, _ = open_image(f"{front.host}/team/sandbox")
    found = find_referrers(repository, digest)
    assert [one.artifact_type for one in found] == [one.artifact_type for one in many]
    same = {"Link": f'</v2/team/sandbox/referrers/{digest}>; rel="next"'}
    front.faults.append(Fault("GET", "/referrers/", 200, times=1000, headers=same, body=b'{"manifests": []}'))
    with pytest.raises(RegistryError, match="has no end"):
        find_referrers(repository, digest)


# The list that we keep


def test_a_newer_one_takes_its_place(front: Front, archive: Path) -> None:
    """The list has what was attached last; what others attached stays on it."""
    digest = attached(archive, front.host, BILL, ORIGIN)
    scan = theirs(front, digest, BILL.artifact_type)
    attached(archive, front.host, replace(BILL, content=b"newer"))
    repository, _ = open_image(f"{front.host}/team/sandbox")
    found = find_referrers(repository, digest)
    assert {one.descriptor.digest for one in found} >= {scan}
    ours = [one for one in found if one.descriptor.digest != scan]
    contents = {get_document(repository, one, digest, LIMIT).content for one in ours}
    assert contents == {b"newer", ORIGIN.content}


def test_others_write_at_the_same_time(front: Front, archive: Path) -> None:
    """Somebody who adds to the list between our reading and our writing takes us off it: we write again."""
    digest = attached(archive, front.host, ORIGIN)
    tag = digest.replace(":", "-")
    before = remote_json(front.upstream, f":{tag}")

    def undo() -> None:
        put(front.upstream, tag, before)

    # After our writing, before our second look.
    front.meanwhile.append(("PUT", f"/manifests/{tag}", lambda: front.meanwhile.append(("GET", tag, undo))))
    attached(archive, front.host, BILL)
    assert documents(front.host, digest) == {
        BILL.artifact_type: BILL.content,
        ORIGIN.artifact_type: ORIGIN.content,
    }
    assert front.requests("PUT", f"/manifests/{tag}") == 3


def test_a_registry_that_looks_at_conditions(front: Front, archive: Path) -> None:
    """412 says that the list has changed: it is read again, and nothing of it is lost."""
    digest = attached(archive, front.host, ORIGIN)
    tag = digest.replace(":", "-")
    front.faults.append(Fault("PUT", f"/manifests/{tag}", 412))
    attached(archive, front.host, BILL)
    assert set(documents(front.host, digest)) == {BILL.artifact_type, ORIGIN.artifact_type}
    conditions = [
        (headers.get("If-Match"), headers.get("If-None-Match"))
        for method, path, headers in front.seen
        if method == "PUT" and tag in path
    ]
    assert conditions[0] == (None, "*")
    assert all(etag and digest is None for etag, digest in conditions[1:])


def test_a_refused_list_is_not_a_written_one(front: Front, archive: Path) -> None:
    """After 412 an older entry of ours is still replaced."""
    digest = attached(archive, front.host, BILL)
    front.faults.append(Fault("PUT", f"/manifests/{digest.replace(':', '-')}", 412))
    attached(archive, front.host, replace(BILL, content=b"newer"))
    assert documents(front.host, digest) == {BILL.artifact_type: b"newer"}


def test_a_list_that_never_rests(front: Front, archive: Path) -> None:
    """Who is refused again and again says so."""
    with open_archive(archive) as opened:
        tag = opened.descriptor.digest.replace(":", "-")
    front.faults.append(Fault("PUT", f"/manifests/{tag}", 412, times=1000))
    with pytest.raises(RegistryError, match=f"the tag {tag} is written by others all the time"):
        attached(archive, front.host, BILL)
    assert "v1" not in remote_tags(front.upstream)


def test_merged() -> None:
    """Ours of the same kind go; others of the same type, and ours of another, stay."""

    def entry(digest: str, kind: str, ours: str | None) -> dict[str, Any]:
        return {"digest": digest, "artifactType": kind} | (
            {"annotations": {"sandbox-build.attachment": ours}} if ours else {}
        )

    old, new = entry("1", "bill", "a"), entry("2", "bill", "a")
    another, stranger = entry("3", "bill", "b"), entry("4", "bill", None)
    assert merged([old, another, stranger], [new]) == [another, stranger, new]
    assert merged([stranger], [stranger | {"annotations": {}}]) == [stranger | {"annotations": {}}]
    assert merged([], [new]) == [new]


# What comes back


def theirs(front: Front, digest: str, kind: str) -> str:
    """Attaches something by another tool's hand, whose subject is another image's; returns its digest."""
    tag = digest.replace(":", "-")
    index = remote_json(front.upstream, f":{tag}")
    artifact = remote_json(front.upstream, f"@{index['manifests'][0]['digest']}")
    artifact["subject"]["digest"] = f"sha256:{'0' * 64}"
    artifact["annotations"] = {"by": "a scanner"}
    content = json.dumps(artifact).encode()
    made = f"sha256:{hashlib.sha256(content).hexdigest()}"
    put(front.upstream, made, artifact)
    entry = {"mediaType": artifact["mediaType"], "digest": made, "size": len(content), "artifactType": kind}
    put(front.upstream, tag, index | {"manifests": [*index["manifests"], entry]})
    return made


def put(host: str, name: str, manifest: dict[str, Any]) -> None:
    """Stores a manifest with curl's own hands."""
    subprocess.run(
        [
            *("curl", "--fail", "--silent", "--show-error", "--request", "PUT"),
            *("--header", f"Content-Type: {manifest['mediaType']}", "--data-binary", "@-"),
            f"http://{host}/v2/team/sandbox/manifests/{name}",
        ],
        input=json.dumps(manifest).encode(),
        check=True,
        capture_output=True,
    )


def test_a_document_about_something_else(front: Front, archive: Path) -> None:
    """What is on an image's list and says that it is another's is not taken for it."""
    digest = attached(archive, front.host, BILL)
    scan = theirs(front, digest, "text/plain")
    repository, _ = open_image(f"{front.host}/team/sandbox")
    (found,) = find_referrers(repository, digest, "text/plain")
    assert found.descriptor.digest == scan
    with pytest.raises(RegistryError, match=f"{scan} is not about {digest}"):
        get_document(repository, found, digest, LIMIT)


def test_a_document_that_is_too_large(front: Front, archive: Path) -> None:
    """Nobody is made to read what he did not want, whatever the manifest says of its size."""
    digest = attached(archive, front.host, BILL)
    repository, _ = open_image(f"{front.host}/team/sandbox")
    (found,) = find_referrers(repository, digest)
    with pytest.raises(RegistryError, match="has 8 bytes: that is too large"):
        get_document(repository, found, digest, 7)
    front.faults.append(Fault("GET", "/blobs/", 200, body=BILL.content + b"more"))
    with pytest.raises(RegistryError, match="sends more than 8 bytes"):
        get_document(repository, found, digest, LIMIT)


def test_a_document_that_was_changed(front: Front, archive: Path) -> None:
    """A registry that sends another document, or another manifest, than its digest says is not believed."""
    digest = attached(archive, front.host, BILL)
    repository, _ = open_image(f"{front.host}/team/sandbox")
    (found,) = find_referrers(repository, digest)
    changed = BILL.content.replace(b"1", b"2")
    for path, body in (("/blobs/", changed), ("/manifests/", b"{}")):
        front.faults.append(Fault("GET", path, 200, body=body))
        with pytest.raises(RegistryError, match="what it sent is not what its digest says"):
            get_document(repository, found, digest, LIMIT)


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        {"subject": None},
        {"subject": {"digest": "SUBJECT"}},
        {"subject": {"digest": "SUBJECT"}, "layers": []},
        {"subject": {"digest": "SUBJECT"}, "layers": [{}]},
        {"subject": {"digest": "SUBJECT"}, "layers": [{"mediaType": "a", "digest": "b", "size": "c"}]},
        {"subject": {"digest": "SUBJECT"}, "layers": "text"},
    ],
    ids=str,
)
def test_no_artifact(front: Front, archive: Path, manifest: dict[str, Any]) -> None:
    """What is no artifact is an error of one line."""
    digest = attached(archive, front.host, BILL)
    repository, _ = open_image(f"{front.host}/team/sandbox")
    (found,) = find_referrers(repository, digest)
    body = json.dumps(manifest).replace("SUBJECT", digest).encode()
    other = replace(found.descriptor, digest=f"sha256:{hashlib.sha256(body).hexdigest()}")
    front.faults.append(Fault("GET", "/manifests/", 200, body=body))
    with pytest.raises(RegistryError, match="is no artifact with a document"):
        get_document(repository, Referrer(other, "", {}), digest, LIMIT)


def test_entries_that_are_none(front: Front, archive: Path) -> None:
    """A list's entry that names no digest, or a tag, is passed over: nothing is asked for by it."""
    digest = push_one(archive, f"{front.host}/team/sandbox:v1")
    entries = [None, {}, {"digest": "v1", "mediaType": "a", "size": 1}, {"digest": digest, "size": 1}]
    front.faults.append(Fault("GET", "/referrers/", 200, body=json.dumps({"manifests": entries}).encode()))
    repository, _ = open_image(f"{front.host}/team/sandbox:v1")
    assert find_referrers(repository, digest) == ()


def test_names_of_images(registry: str, archive: Path) -> None:
    """By tag, by digest, by both; what is no digest is refused before anybody is asked."""
    digest = push_one(archive, f"{registry}/team/sandbox:v1")
    for name in (":v1", f"@{digest}", f":v2@{digest}"):
        repository, found = open_image(f"{registry}/team/sandbox{name}")
        assert repository.get_manifest(found).descriptor.digest == digest
    with pytest.raises(RegistryError, match="sandbox:v3: the registry has no such tag"):
        repository.get_manifest("v3")
    with pytest.raises(UsageError, match="'sha256:12' is not a digest"):
        open_image("localhost:1/x@sha256:12")


def test_skopeo_still_reads_the_image(registry: str, archive: Path) -> None:
    """Attachments change nothing of the image itself."""
    plain = push_one(archive, f"{registry}/team/sandbox:v1")
    assert attached(archive, registry, BILL, tag="v2") == plain
    found = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{registry}/team/sandbox:v2"))
    assert found["Digest"] == plain
