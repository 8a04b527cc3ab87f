"""A registry as the cache of machines that have none: files by their SHA-256."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from builder.archive import MANIFEST_TYPE, Descriptor
from builder.cli_options import cache
from builder.errors import BuildError, RegistryError
from builder.registry import open_registry
from builder.registry.cache import Listed, manifest_over, open_cache
from tests.conftest import Result, sandbox_build
from tests.integration.front import Fault, Front
from tests.integration.pushing import push_one, remote_json
from tests.wheels import wheel

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


def rename(host: str, names: dict[str, object]) -> None:
    """Has the cache's manifest call these files, by their SHA-256, otherwise."""
    layers = remote_json(host, ":cache")["layers"]
    for layer in layers:
        if (name := names.get(layer["digest"].removeprefix("sha256:"))) is not None:
            layer["annotations"] = {"org.opencontainers.image.title": name}
    content = manifest_over(layers)
    _, repository = open_registry(f"{host}/team/sandbox:cache")
    repository.put_manifest("cache", Descriptor.of(MANIFEST_TYPE, content), content)


def test_what_is_there(registry: str, tmp_path: Path) -> None:
    """Every file with its name and size; a name that leads elsewhere, or is none, is as good as no file."""
    cache = open_cache(f"{registry}/team/sandbox:cache")
    assert cache.files() == {}
    files = made(tmp_path, b"one", b"three", b"4")
    cache.put(files)
    expected = {sha256: Listed(path.name, path.stat().st_size) for sha256, path in files.items()}
    assert cache.files() == expected
    first, second, third = files
    for name in ("../escape.whl", "/etc/passwd", "..", ".hidden", "a\n.whl", "a\0.whl", "", "x" * 256):
        rename(registry, {first: name})
        assert cache.files() == {sha256: expected[sha256] for sha256 in (second, third)}


def test_an_image_is_not_written_over(registry: str, archive: Path, tmp_path: Path) -> None:
    """Where an image has the tag nothing is taken, and nothing put."""
    digest = push_one(archive, f"{registry}/team/sandbox:v1")
    cache = open_cache(f"{registry}/team/sandbox:v1")
    for act in (cache.files, lambda: cache.put(made(tmp_path, b"one"))):
        with pytest.raises(RegistryError, match="the tag v1 is of no cache of ours"):
            act()
    assert open_registry(f"{registry}/team/sandbox:v1")[1].find_digest("v1") == digest


# Builds


@dataclass(frozen=True)
class Machine:
    """Builds a locked config, with a cache of its own."""

    folder: Path
    config: Path
    wheels: Path

    def run(self, command: str, *arguments: str) -> Result:
        """With the wheels in its folder alone."""
        own = {"XDG_CACHE_HOME": str(self.folder)}
        where = (f"--config={self.config}", "--arch=amd64", f"--wheelhouse={self.wheels}", "--no-index")
        return sandbox_build(command, *where, *arguments, env=own)

    def build(self, *arguments: str) -> Result:
        return self.run("build", "--driver=oci", f"--output={self.folder / 'dist'}", *arguments)

    def built(self, *arguments: str) -> Result:
        done = self.build(*arguments)
        assert done.exit_code == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine that reaches a mirror and has the wheels, and that has locked the config."""
    folder = tmp_path_factory.mktemp("first")
    made = Machine(folder / "cache", folder / "config.yaml", folder / "wheels")
    made.wheels.mkdir()
    wheel(made.wheels, "pure")
    made.config.write_text("base: debian:trixie\ndependencies: [pure]\n")
    if (cache() / "debs").is_dir():  # what other tests have fetched need not come again
        shutil.copytree(cache() / "debs", made.folder / "sandbox-build/debs")
    done = made.run("lock")
    assert done.exit_code == 0, done.stderr
    return made


def another(first: Machine, folder: Path) -> Machine:
    """Another one: it has nothing, and reaches nothing."""
    (folder / "wheels").mkdir(parents=True)
    config = folder / "config.yaml"
    config.write_text(f"{first.config.read_text()}base_mirror: http://127.0.0.1:1/debian\n")
    shutil.copyfile(first.config.with_suffix(".lock"), config.with_suffix(".lock"))
    return Machine(folder, config, folder / "wheels")


def test_a_machine_that_has_nothing_and_reaches_nothing(first: Machine, front: Front, tmp_path: Path) -> None:
    """It builds the same image from what another one kept in the registry, and only with that."""
    option = f"--registry-cache={front.host}/team/sandbox:cache"
    one = first.built(option)
    files = open_cache(f"{front.host}/team/sandbox:cache").files()
    assert f"keeping {len(files)} files" in one.stderr
    assert {"pure-1.0-py3-none-any.whl"} < {listed.name for listed in files.values()}
    control = another(first, tmp_path / "control")
    assert "has no pure 1.0 with the locked hash" in control.build().stderr
    with_wheels = replace(control, wheels=first.wheels).build()
    assert (with_wheels.exit_code, "http://127.0.0.1:1/debian" in with_wheels.stderr) == (1, True)
    front.seen.clear()
    other = another(first, tmp_path / "other").built(option)
    assert other.stdout == one.stdout
    assert f"taking {len(files)} files" in other.stderr
    assert "warning" not in other.stderr
    assert front.requests("GET", "/blobs/sha256:") == len(files)
    assert front.requests("PUT") == 0, "all of them are there"


def test_another_packages_name(first: Machine, front: Front, tmp_path: Path) -> None:
    """A file under such a name is not taken; who has it puts the name right."""
    option = f"--registry-cache={front.host}/team/sandbox:cache"
    one = first.built(option)
    cache = open_cache(f"{front.host}/team/sandbox:cache")
    good = cache.files()
    (sha256,) = [found for found, listed in good.items() if "pure" in listed.name]
    rename(front.upstream, {sha256: "other-1.0-py3-none-any.whl"})
    other = another(first, tmp_path / "other")
    failed = other.build(option)
    assert failed.exit_code == 1
    assert f"{other.wheels} has no pure 1.0" in failed.stderr
    assert not list(other.folder.glob("sandbox-build/wheels/*/*.whl"))
    assert replace(other, wheels=first.wheels).built(option).stdout == one.stdout
    assert cache.files() == good


def test_a_damaged_file(first: Machine, front: Front) -> None:
    """It is not taken: where the usual places have it, it is one warning."""
    option = f"--registry-cache={front.host}/team/sandbox:cache"
    one = first.built(option)
    for name in ("wheels", "packages"):
        shutil.rmtree(first.folder / "sandbox-build" / name)
    front.faults.append(Fault("GET", "/blobs/", 200, body=b"x"))
    done = first.built(option)
    assert done.stdout == one.stdout
    assert done.stderr.count("warning: ") == 1
    assert "not what its digest says" in done.stderr


def test_a_file_that_the_registry_lost_is_put_there_again(
    first: Machine, front: Front, tmp_path: Path
) -> None:
    """Though its manifest lists it."""
    reference = f"{front.host}/team/sandbox:cache"
    first.built(f"--registry-cache={reference}")
    (sha256,) = [hash_ for hash_, listed in open_cache(reference).files().items() if "pure" in listed.name]
    _, repository = open_registry(reference)
    (link,) = tmp_path.glob(f"store/**/team/sandbox/_layers/sha256/{sha256}/link")
    link.unlink()
    assert repository.find_blob(f"sha256:{sha256}", LIMIT) is None
    for name in ("wheels", "packages"):
        shutil.rmtree(first.folder / "sandbox-build" / name)
    done = first.built(f"--registry-cache={reference}")
    assert "keeping 1 files" in done.stderr
    assert repository.find_blob(f"sha256:{sha256}", LIMIT) is not None


def test_a_registry_that_cannot_be_used_is_warned_about_once(first: Machine, private_registry: str) -> None:
    """Neither one that is not there nor one that lets nobody in fails the build."""
    nowhere = first.built("--registry-cache=127.0.0.1:1/team/sandbox:cache")
    private = first.built(f"--registry-cache={private_registry}/team/sandbox:cache")
    assert nowhere.stdout == private.stdout
    for done in (nowhere, private):
        assert done.stderr.count("warning: the build does without --registry-cache") == 1
        assert done.stderr.count("warning: ") == 1


def test_what_may_be_read_but_not_written(first: Machine, front: Front) -> None:
    """What is refused when the files are kept is a warning, too."""
    front.faults.append(Fault("POST", "/blobs/uploads/", 403, times=100))
    done = first.built(f"--registry-cache={front.host}/team/sandbox:cache")
    assert done.stderr.count("warning: ") == 1
    assert "no right to push to team/sandbox" in done.stderr


def test_nothing_is_locked(tmp_path: Path) -> None:
    """Then there is nothing to share, which is said at once."""
    machine = Machine(tmp_path / "machine", tmp_path / "config.yaml", tmp_path)
    machine.config.write_text("base: debian:trixie\ndependencies: []\n")
    done = machine.build("--registry-cache=127.0.0.1:1/team/sandbox:cache")
    assert done.exit_code == 2
    assert "hint: sandbox-build lock" in done.stderr


def test_a_name_without_a_registry(first: Machine) -> None:
    """It is a mistake of whoever wrote it, and no build goes on without telling."""
    done = first.build("--registry-cache=team/sandbox:cache")
    assert done.exit_code == 2
    assert "which registry?" in done.stderr
