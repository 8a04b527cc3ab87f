"""A registry as the cache of machines that have none: files by their SHA-256."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from builder.errors import BuildError, RegistryError
from builder.registry.cache import manifest_over, open_cache
from tests.integration.front import Fault, Front
from tests.integration.pushing import remote_json

pytestmark = pytest.mark.usefixtures("docker_config")

LIMIT = 1 << 20


def made(folder: Path, *contents: bytes) -> dict[str, Path]:
    """A file for each content, by its SHA-256."""
    files = {}
    for content in contents:
        sha256 = hashlib.sha256(content).hexdigest()
        files[sha256] = folder / f"{sha256[:8]}.whl"
        files[sha256].write_bytes(content)
    return files


def test_there_and_back(front: Front, tmp_path: Path) -> None:
    """What one machine puts there another gets; what is there is not sent again, what is not is None."""
    first, second = made(tmp_path, b"one", b"two"), made(tmp_path, b"two", b"three")
    assert open_cache(f"{front.host}/team/sandbox:cache").put(first).skipped_bytes == 0
    assert open_cache(f"{front.host}/team/sandbox:cache").put(second).sent_bytes == len(b"three")
    cache = open_cache(f"{front.host}/team/sandbox:cache")
    for sha256, path in (first | second).items():
        assert cache.get(sha256, LIMIT) == path.read_bytes()
    assert cache.get("0" * 64, LIMIT) is None
    layers = remote_json(front.upstream, ":cache")["layers"]
    assert [layer["digest"].removeprefix("sha256:") for layer in layers] == [
        *(first.keys() - second),
        *second,
    ]


def test_nothing_new(front: Front, tmp_path: Path) -> None:
    """Where everything is there nothing is written."""
    files = made(tmp_path, b"one")
    cache = open_cache(f"{front.host}/team/sandbox:cache")
    cache.put(files)
    cache.put(files)
    cache.put({})
    assert front.requests("PUT") == 3  # the file, the empty config, the manifest


def test_garbage_collection_leaves_them(registry: str, tmp_path: Path) -> None:
    """The registry's own collection takes what nothing names, and no file of the cache."""
    files = made(tmp_path, b"one")
    cache = open_cache(f"{registry}/team/sandbox:cache")
    cache.put(files)
    done = subprocess.run(
        ["docker-registry", "garbage-collect", str(tmp_path / "registry.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"marking blob sha256:{next(iter(files))}" in done.stdout
    assert "0 blobs and 0 manifests eligible for deletion" in done.stdout
    assert open_cache(f"{registry}/team/sandbox:cache").get(next(iter(files)), LIMIT) == b"one"


def test_another_file_is_refused(front: Front, tmp_path: Path) -> None:
    """Whoever may write there cannot put another file in the place of one."""
    files = made(tmp_path, b"one")
    cache = open_cache(f"{front.host}/team/sandbox:cache")
    cache.put(files)
    front.faults.append(Fault("GET", "/blobs/", 200, body=b"two"))
    with pytest.raises(RegistryError, match="not what its digest says"):
        cache.get(next(iter(files)), LIMIT)
    with pytest.raises(RegistryError, match="sends more than 2 bytes"):
        cache.get(next(iter(files)), 2)


def test_a_file_under_another_name(registry: str, tmp_path: Path) -> None:
    """Nor can we ourselves: the registry looks at what it gets."""
    path = tmp_path / "one"
    path.write_bytes(b"one")
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        open_cache(f"{registry}/team/sandbox:cache").put({"0" * 64: path})


def test_a_file_that_is_not_there(registry: str, tmp_path: Path) -> None:
    """It is named."""
    cache = open_cache(f"{registry}/team/sandbox:cache")
    with pytest.raises(BuildError, match="nowhere: cannot be read: No such file or directory"):
        cache.put({"0" * 64: tmp_path / "nowhere"})


def test_it_does_not_grow_without_end() -> None:
    """As many files as are kept have room in the manifest that a registry takes."""
    from builder.registry import cache, client

    layer = {"mediaType": cache._FILE_TYPE, "digest": f"sha256:{'0' * 64}", "size": 1 << 30}
    named = layer | {"annotations": {"org.opencontainers.image.title": "x" * 255}}
    assert len(manifest_over([named] * cache._MOST_FILES)) <= client.MANIFEST_BYTES
