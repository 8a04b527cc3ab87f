"""The documents about a real image: valid, whole against the unpacked image, and the same for two builds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from builder.arch import ARCHES, host_arch
from builder.attest import Attestations, BuildFacts, attest, image_parameters
from builder.config import load_config
from builder.inspection import inspect_local
from builder.progress import Progress
from builder.registry import Attachment, Image, push
from builder.report import load_report
from builder.tree.spec import TREE_PATH
from tests.conftest import sandbox_build
from tests.suite.shelf import QUICK
from tests.validators import check_cyclonedx, check_provenance, check_spdx, components


def facts_of(config_path: Path) -> BuildFacts:
    config, _ = load_config(config_path, {})
    return BuildFacts(image_parameters(config), epoch=1735689600, builder_version="9.9")


@pytest.fixture(scope="module")
def made(quick: Path) -> dict[str, Attestations]:
    """The documents of the images for both architectures."""
    return {
        arch: attest(quick / arch / "image.tar", load_report(quick / arch), facts_of(QUICK))
        for arch in ARCHES
    }


def document(made: Attestations, name: str) -> Any:
    return json.loads(next(one.content for one in made.documents if one.name == name))


def walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Every path of an unpacked image."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            yield f"/{path.relative_to(root)}", path


@pytest.fixture(scope="module")
def owners(quick: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Path in the base -> the package that dpkg itself says owns it, of the base's files for this machine."""
    root = tmp_path_factory.mktemp("base")
    subprocess.run(["tar", "-xf", quick / host_arch().name / "context/target.tar", "-C", root], check=True)
    query = ["dpkg-query", f"--admindir={root}/var/lib/dpkg"]
    shown = subprocess.run(
        [*query, "--show", "--showformat=${binary:Package}\n"], capture_output=True, check=True, text=True
    )
    found = {}
    for package in shown.stdout.split():
        listed = subprocess.run([*query, "--listfiles", package], capture_output=True, check=True, text=True)
        for path in listed.stdout.splitlines():
            place = root / path.lstrip("/")
            if place.is_file() and not place.is_symlink():
                real = place.parent.resolve() / place.name
                found[f"/{real.relative_to(root)}"] = package.partition(":")[0]
    shutil.rmtree(root)
    return found


@pytest.mark.parametrize("arch", ARCHES)
def test_the_formats_own_validators_take_them(
    made: dict[str, Attestations], arch: str, tmp_path: Path
) -> None:
    """Of a real image for either architecture."""
    contents = {one.name: one.content for one in made[arch].documents}
    check_cyclonedx(contents["sbom.cdx.json"])
    check_spdx(contents["sbom.spdx.json"], tmp_path)
    check_provenance(contents["provenance.json"])


def test_tree_json_is_the_unpacked_image(made: dict[str, Attestations], quick_root: Path) -> None:
    """Path by path, as the file system has it."""
    found = {}
    for path, place in walk(quick_root):
        about = place.lstat()
        entry: dict[str, Any] = {"path": path}
        if stat.S_ISLNK(about.st_mode):
            entry |= {"type": "symlink", "target": str(place.readlink())}
        else:
            is_folder = stat.S_ISDIR(about.st_mode)
            entry |= {"type": "directory" if is_folder else "file", "mode": f"{about.st_mode & 0o7777:04o}"}
            if not is_folder:
                content = place.read_bytes()
                entry |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        found[path] = entry
    tree = document(made[host_arch().name], "tree.json")
    assert {one["path"]: one for one in tree["entries"]} == found


def test_every_debian_package_with_a_file_in_the_tree_is_in_both_boms(
    made: dict[str, Attestations], quick_root: Path, owners: dict[str, str]
) -> None:
    """By what dpkg itself says of each file that the unpacked tree and the base have in common."""
    tree = quick_root / TREE_PATH[1:]
    wanted = {
        owners[path]
        for path, place in walk(tree)
        if path in owners and place.is_file() and not place.is_symlink()
    }
    assert {"libc6", "tzdata"} <= wanted
    # Their files are in the tree as others: as bytecode, and as one bundle.
    wanted |= {"ca-certificates"}
    ours = made[host_arch().name]
    cdx = {
        one["name"]
        for one in components(document(ours, "sbom.cdx.json"))
        if one.get("purl", "").startswith("pkg:deb/")
    }
    assert cdx == wanted
    assert cdx <= {one["name"] for one in document(ours, "sbom.spdx.json")["packages"]}


def test_every_distribution_in_the_tree_is_in_both_boms(
    made: dict[str, Attestations], quick_root: Path
) -> None:
    """By the *.dist-info folders that are there."""
    folders = (quick_root / TREE_PATH[1:] / "packages").glob("*.dist-info")
    wanted = {canonicalize_name(one.name.split("-")[0]) for one in folders}
    assert "numpy" in wanted
    ours = made[host_arch().name]
    cdx = [one for one in components(document(ours, "sbom.cdx.json")) if "pkg:pypi/" in one.get("purl", "")]
    assert {canonicalize_name(one["name"]) for one in cdx} == wanted
    spdx = document(ours, "sbom.spdx.json")["packages"]
    assert wanted <= {canonicalize_name(one["name"]) for one in spdx}


def test_no_file_of_the_tree_is_without_a_component(quick: Path) -> None:
    """Of Debian's packages nothing is left over: what nobody claims would be a component by its path."""
    report = load_report(quick / host_arch().name)
    assert report.unclaimed == ()
    counted = sum(one.files for one in report.debian)
    of_base = report.size_of(report.of_kind("python", "library", "system", "base-package")).files
    assert counted == of_base + 1, "the bundle of certificates is ours, and its package's"


def test_two_builds_have_the_same_documents(made: dict[str, Attestations], tmp_path: Path) -> None:
    """Another folder, another name for the image, built anew."""
    arch = host_arch().name
    done = sandbox_build(
        *("--driver=oci", f"--config={QUICK}", f"--output={tmp_path}", f"--arch={arch}", "--tag=other:name")
    )
    assert done.exit_code == 0, done.stderr
    again = attest(tmp_path / arch / "image.tar", load_report(tmp_path / arch), facts_of(QUICK))
    assert again == made[arch]


def test_an_image_and_its_documents_are_told_of_from_a_registry(
    made: dict[str, Attestations], quick: Path, registry: str
) -> None:
    """Both architectures behind one name, with no layer fetched but the last; as from the folder."""
    images = []
    for arch, one in made.items():
        attachments = [
            Attachment(each.artifact_type, each.media_type, each.content, each.name) for each in one.documents
        ]
        images.append(Image(quick / arch / "image.tar", attachments))
    push(images, f"{registry}/team/app:1", Progress(quiet=True))
    done = sandbox_build("inspect", f"{registry}/team/app:1", "--json")
    assert done.exit_code == 0, done.stderr
    for found, (arch, one) in zip(json.loads(done.stdout), made.items(), strict=True):
        (local,) = inspect_local(quick / arch)
        assert (found["digest"], found["platform"]) == (local.digest, f"linux/{arch}")
        assert found["tree_digest"] == local.tree_digest == f"sha256:{one.tree_digest}"
        assert found["policy_digest"] == local.policy_digest == f"sha256:{one.policy_digest}"
        assert [each["name"] for each in found["documents"]] == [each.name for each in one.documents]
        for key in ("packages", "debian", "layers"):
            assert len(found[key]) == len(getattr(local, key)), key
        assert found["agrees"]
        assert all(check["found"] is not None for check in found["checks"])

    other = made[host_arch().name].documents[:3]
    wrong = [Attachment(each.artifact_type, each.media_type, b"{}\n", each.name) for each in other]
    provenance = made[host_arch().name].documents[3]
    wrong.append(
        Attachment(provenance.artifact_type, provenance.media_type, provenance.content, provenance.name)
    )
    arch = next(arch for arch in ARCHES if arch != host_arch().name)
    push([Image(quick / arch / "image.tar", wrong)], f"{registry}/team/other:1", Progress(quiet=True))
    done = sandbox_build("inspect", f"{registry}/team/other:1")
    assert done.exit_code == 4
    for what in ("image", "policy", "tree", "sbom.cdx.json", "sbom.spdx.json"):
        assert f"  DISAGREE    {what}: " in done.stdout
