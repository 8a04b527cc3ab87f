"""SBOMs and provenance of a small image that has every kind of thing: valid, whole, the same twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.attest import Attestations, attest, image_parameters, read_claims
from builder.attest.purl import deb_purl, pypi_purl
from builder.config import load_config
from builder.errors import BuildError
from builder.report import Report
from tests.attested import FACTS, REPORT, digest_of, make_image
from tests.reports import HOSTILE
from tests.validators import check_cyclonedx, check_provenance, check_purls, check_spdx, components


@pytest.fixture
def made(tmp_path: Path) -> Attestations:
    return attest(make_image(tmp_path), Report(REPORT), FACTS)


def content(made: Attestations, name: str) -> bytes:
    return next(one.content for one in made.documents if one.name == name)


def test_the_formats_own_validators_take_them(made: Attestations, tmp_path: Path) -> None:
    """CycloneDX's schema and model, SPDX's tools, in-toto's and SLSA's protocol buffers."""
    check_cyclonedx(content(made, "sbom.cdx.json"))
    check_spdx(content(made, "sbom.spdx.json"), tmp_path)
    check_provenance(content(made, "provenance.json"))


def test_both_boms_name_the_same_things(made: Attestations) -> None:
    """Packages of Debian, distributions, the interpreter, our runtime, and what nothing claims."""
    cdx = json.loads(content(made, "sbom.cdx.json"))
    spdx = json.loads(content(made, "sbom.spdx.json"))
    named = {(one["name"], one.get("version", "")) for one in components(cdx)}
    assert named == {
        ("debian", "13"),
        ("libc6", "2.41-12"),
        ("libssl3t64", "3.5.1-1+deb13u1"),
        ("python", "3.13.5"),
        ("sandbox-build", "9.9"),
        ("PyYAML", "6.0"),
        ("learn", "1.7"),
        ("scipy", "1.16"),
        ("joblib", "1.5"),
        ("/opt/app", ""),
        ("/opt/app/a.py", ""),
        ("/opt/app/b.so", ""),
        ("/usr/lib/x86_64-linux-gnu/libgfortran.so.5.0.0", ""),
        ("/usr/lib/x86_64-linux-gnu/libquadmath.so.0", ""),
    }
    image = cdx["metadata"]["component"]
    assert {(one["name"], one.get("versionInfo", "")) for one in spdx["packages"]} == {
        *named,
        (image["name"], image["version"]),
    }
    assert (image["name"], image["version"]) == ("example.org/team/app", f"sha256:{digest_of(made)}")


def test_the_graph_is_the_report_s(made: Attestations) -> None:
    """What an origin needs, by the things that its files belong to; the same edges in both formats."""
    cdx = json.loads(content(made, "sbom.cdx.json"))
    refs = {one["bom-ref"]: one["name"] for one in (*components(cdx), cdx["metadata"]["component"])}
    needs = {refs[one["ref"]]: {refs[ref] for ref in one["dependsOn"]} for one in cdx["dependencies"]}
    gfortran, quadmath = (name for name in sorted(needs) if "libgfortran" in name or "libquadmath" in name)
    assert needs["learn"] == {"scipy", "joblib"}
    assert needs["scipy"] == {"libc6", "libssl3t64", gfortran}
    assert needs[gfortran] == {quadmath}
    assert needs["python"] == {"libc6", "libssl3t64"}
    assert needs["sandbox-build"] == {"python"}
    assert {"learn", "PyYAML", "python", "sandbox-build"} <= needs["example.org/team/app"]
    spdx = json.loads(content(made, "sbom.spdx.json"))
    ids = {one["SPDXID"]: one["name"] for one in spdx["packages"]}
    edges: dict[str, set[str]] = {name: set() for name in needs}
    for one in spdx["relationships"]:
        if one["relationshipType"] == "DEPENDS_ON":
            edges[ids[one["spdxElementId"]]].add(ids[one["relatedSpdxElement"]])
    assert edges == needs


def test_everything_is_reached_from_the_image(made: Attestations) -> None:
    """A thing that nothing leads to would be one that no scanner walks to."""
    cdx = json.loads(content(made, "sbom.cdx.json"))
    edges = {one["ref"]: one["dependsOn"] for one in cdx["dependencies"]}
    inside = {one["bom-ref"]: [x["bom-ref"] for x in one.get("components", [])] for one in components(cdx)}
    reached: set[str] = set()
    pending = [cdx["metadata"]["component"]["bom-ref"]]
    while pending:
        one = pending.pop()
        if one not in reached:
            reached.add(one)
            pending += edges[one] + inside.get(one, [])
    assert reached >= set(inside)


def test_hashes_are_of_what_came_and_of_what_is_there(made: Attestations) -> None:
    """A wheel's and a .deb's own, and of a single file that of its content in the tree."""
    cdx = json.loads(content(made, "sbom.cdx.json"))
    found = {one["name"]: one["hashes"][0]["content"] for one in components(cdx) if "hashes" in one}
    assert found["scipy"] == "5" * 64
    assert found["libc6"] == "c" * 64
    assert "joblib" not in found
    tree = {one["path"]: one for one in json.loads(content(made, "tree.json"))["entries"]}
    path = "/usr/lib/x86_64-linux-gnu/libgfortran.so.5.0.0"
    assert found[path] == tree[f"/var/sandbox/sandbox-python{path}"]["sha256"]


def test_provenance_covers_image_policy_and_tree(made: Attestations) -> None:
    """A signature over it is one over the confinement, too, and over the other documents."""
    claims = read_claims(content(made, "provenance.json"))
    tree = {one["path"]: one for one in json.loads(content(made, "tree.json"))["entries"]}
    assert claims.policy == tree["/sandbox/policy.bpf"]["sha256"] == made.policy_digest
    assert claims.tree == next(one.sha256 for one in made.documents if one.name == "tree.json")
    assert claims.documents == {
        one.name: one.sha256 for one in made.documents if one.name.startswith("sbom.")
    }


def test_provenance_names_every_input_by_its_digest(made: Attestations) -> None:
    """Each package, each wheel, the lock file."""
    predicate = json.loads(content(made, "provenance.json"))["predicate"]
    found = {
        one.get("uri", one["name"]): one["digest"]["sha256"]
        for one in predicate["buildDefinition"]["resolvedDependencies"]
    }
    assert found == {
        "config.lock": "1" * 64,
        "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13&upstream=glibc": "c" * 64,
        "pkg:deb/debian/unused@1?arch=all&distro=debian-13": "d" * 64,
        "pkg:pypi/scipy@1.16": "5" * 64,
    }
    parameters = predicate["buildDefinition"]["externalParameters"]
    assert parameters == {
        "arch": "amd64",
        "source_date_epoch": 1735689600,
        "config": {"base": "debian:trixie", "image": {"repository": "example.org/team/app"}},
    }


def test_a_base_image_is_an_input_where_its_digest_is_known(tmp_path: Path) -> None:
    """By the name that the config has for it."""
    config = dict(FACTS.config) | {"base": "registry.example:5000/team/python:3.13-slim"}
    facts = replace(FACTS, config=config, base_digest=f"sha256:{'b' * 64}", debs=(), wheels=())
    made = attest(make_image(tmp_path), Report(REPORT), facts)
    document = check_provenance(content(made, "provenance.json"))
    base = document["predicate"]["buildDefinition"]["resolvedDependencies"][0]
    assert base == {
        "name": "registry.example:5000/team/python:3.13-slim",
        "uri": f"pkg:oci/python@sha256:{'b' * 64}",
        "digest": {"sha256": "b" * 64},
    }


def test_the_same_image_and_facts_are_the_same_bytes(tmp_path: Path) -> None:
    """In whatever order the facts come."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    other = replace(FACTS, debs=FACTS.debs[::-1], config=dict(reversed(list(FACTS.config.items()))))
    one = attest(make_image(tmp_path / "one"), Report(REPORT), FACTS)
    two = attest(make_image(tmp_path / "two"), Report(REPORT), other)
    assert one == two


def test_the_image_s_own_date_is_the_only_one(made: Attestations) -> None:
    """Both SBOMs have the date of the image's config; the serial number is the image's, too."""
    cdx = json.loads(content(made, "sbom.cdx.json"))
    spdx = json.loads(content(made, "sbom.spdx.json"))
    assert cdx["metadata"]["timestamp"] == spdx["creationInfo"]["created"] == "2024-02-03T04:05:06Z"
    assert spdx["documentNamespace"].endswith(cdx["serialNumber"].removeprefix("urn:uuid:"))


def test_hostile_names_stay_inside_their_strings(tmp_path: Path) -> None:
    """File names, reasons and bases of a stranger's root: the documents are valid, plain ASCII."""
    path = f"/opt/app/{HOSTILE.replace('/', '')}"
    files = REPORT["files"] | {"/opt/app": [["a.py", 5, 12], ["b.so", 5, 12], [Path(path).name, 5, 12]]}
    raw = REPORT | {
        "base": HOSTILE,
        "files": files,
        "unclaimed": [*REPORT["unclaimed"], path],
        "origins": [one | {"text": f"{one['text']}{HOSTILE}"} for one in REPORT["origins"]],
        "os_release": {"id": "deb%ian?x=1&y#z", "version_id": "1 3"},
    }
    made = attest(make_image(tmp_path, {path: b"12345"}), Report(raw), FACTS)
    for document in made.documents:
        assert document.content.isascii()
        assert b"\x1b" not in document.content
    check_cyclonedx(content(made, "sbom.cdx.json"))
    check_spdx(content(made, "sbom.spdx.json"), tmp_path)
    check_provenance(content(made, "provenance.json"))


def test_an_image_without_a_policy_is_none_of_ours(tmp_path: Path) -> None:
    """There would be nothing to sign that confines the code."""
    with pytest.raises(BuildError, match=r"no file /sandbox/policy\.bpf"):
        attest(make_image(tmp_path, without=("/sandbox/policy.bpf",)), Report(REPORT), FACTS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"_type": "https://in-toto.io/Statement/v0.1"}',
        b'{"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://slsa.dev/provenance/v1"}',
        b'{"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://slsa.dev/provenance/v1",'
        b'"subject": [{"digest": {"sha256": "x"}}, {"name": "tree.json", "digest": {}}]}',
    ],
)
def test_a_statement_that_is_another_is_an_error(content: bytes) -> None:
    """It is a stranger's text in a registry."""
    with pytest.raises(BuildError, match="is not one of sandbox-build"):
        read_claims(content)


def test_package_urls_are_as_their_specification_has_them() -> None:
    """Pluses, tildes, epochs and capital letters; a rebuild's source has another version."""
    urls: dict[str, Any] = {
        deb_purl("libc6", "1:2.0+b1~x", "arm64", "glibc 2.0", {"id": "debian", "version_id": "13"}): (
            "pkg:deb/debian/libc6@1:2.0%2Bb1~x?arch=arm64&distro=debian-13&upstream=glibc%402.0"
        ),
        deb_purl("libstdc++6", "14", "amd64", "libstdc++6", {"id": "ubuntu", "version_codename": "zesty"}): (
            "pkg:deb/ubuntu/libstdc%2B%2B6@14?arch=amd64&distro=zesty"
        ),
        pypi_purl("Foo_Bar.baz", "1.0+local"): "pkg:pypi/foo-bar.baz@1.0%2Blocal",
    }
    for found, wanted in urls.items():
        assert found == wanted
    check_purls(urls)


def test_where_bytes_are_fetched_and_secrets_are_no_parameters(tmp_path: Path) -> None:
    """Two teams with mirrors of their own make the same image, and say the same of it."""
    config = tmp_path / "config.yaml"
    config.write_text("base: debian:trixie\n")
    plain, _ = load_config(config, {})
    config.write_text(
        "base: debian:trixie\nbase_mirror: http://mirror.example/debian\n"
        "base_snapshot: http://snapshot.example/debian\npython_pip_mirror_url: https://index.example/simple\n"
        "proxy: {http: http://proxy.example:1}\napp: {key: secret}\n"
    )
    found, _ = load_config(config, {})
    assert found != plain
    assert image_parameters(found) == image_parameters(plain)
    assert image_parameters(found)["base"] == "debian:trixie"
