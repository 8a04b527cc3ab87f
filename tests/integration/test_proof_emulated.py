"""The proof of an image for the other architecture: imports through qemu, and what is said of the rest."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import emulation, jailrun
from builder.errors import VerificationFailed
from builder.progress import Progress
from builder.proof import Proof, ProofFailed, prove
from tests.binfmt import OTHER, no_emulator, registered
from tests.conftest import sandbox_build
from tests.shop import Shop


@pytest.fixture(scope="module")
def _unset() -> Iterator[None]:
    """Nothing runs the other architecture here, however this machine is set up; it is again at the end."""
    with no_emulator():
        yield


@pytest.fixture
def emulator(_unset: None) -> Iterator[None]:
    """qemu runs the other architecture, wherever the root is."""
    with registered("F"):
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """An image for the other architecture."""
    folder = tmp_path_factory.mktemp("other")
    built = sandbox_build("--driver=oci", f"--arch={OTHER.name}", "--output", str(folder))
    assert built.exit_code == 0, built.stderr
    root = jailrun.unpack(folder / OTHER.name / "image.tar", folder / "cache")
    made = Shop.open(root, folder / "shop", OTHER)
    made.add("good", {"good.py": "import ctypes, ssl\n"})
    made.add("bad", {"bad.py": "import absent\n"})
    made.add("dead", {"dead.py": "import os\nos.abort()\n"})
    yield made
    shutil.rmtree(made.place.root)


@pytest.mark.usefixtures("emulator")
def test_imports_and_snippets_run_in_the_tree(shop: Shop) -> None:
    """As nobody, with no privilege to gain, in the tree alone; and the proof says what that does not show."""
    code = """
import os, platform, socket
print(platform.machine(), os.getuid() >= 10000, os.getgroups(), os.listdir("/proc"), os.listdir("/dev"))
print(sorted(os.environ), [name for _, name in socket.if_nameindex()])
open(os.environ["TMPDIR"] + "/file", "w").close()
try:
    open("/packages/file", "w")
except OSError as error:
    print(error.strerror)
"""
    printed = (
        f"{OTHER.machine} True [] [] []\n['HOME', 'LANG', 'PATH', 'TMPDIR'] ['lo']\nRead-only file system\n"
    )
    proof = shop.prove("good", snippets=[{"code": code, "output": printed}], imports=["json.tool"])
    assert (proof.how, proof.level, proof.snippets) == ("emulated", None, 1)
    assert [one.name for one in proof.imports] == ["good", "json.tool"]
    assert proof.not_proven == emulation.NOT_PROVEN
    assert f"2 imports and 1 snippet work in the tree of {OTHER.name}, through qemu" in proof.lines()[0]
    assert "not proven: the system call policy: seccomp cannot be loaded under qemu" in proof.lines()


@pytest.mark.usefixtures("emulator")
def test_limits_hold_though_they_are_those_of_qemu(shop: Shop) -> None:
    """Memory, with what qemu needs besides, and processes. The control of memory is less of it."""
    code = """
import resource
held = bytearray({mebibytes} << 20)
for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC):
    print(resource.getrlimit(kind))
"""
    limits = shop.place.settings["limits"]
    memory, processes = limits["memory_bytes"] + (1 << 30), limits["processes"]
    printed = f"({memory}, {memory})\n({processes}, {processes})\n"
    fits = {"code": code.format(mebibytes=256), "output": printed}
    assert shop.prove(snippets=[fits]).snippets == 1
    with pytest.raises(ProofFailed, match="MemoryError"):
        shop.prove(snippets=[{"code": code.format(mebibytes=3 << 10), "output": None}])


@pytest.mark.usefixtures("emulator")
def test_what_cannot_be_imported_fails(shop: Shop) -> None:
    """An exception is the package's; a crash may be qemu's, and is only not proven."""
    with pytest.raises(ProofFailed, match=f"through qemu in the finished tree of {OTHER.name}") as caught:
        shop.prove("bad", "dead", "good")
    assert [one.what for one in caught.value.failures] == ["import bad (bad 1.0)"]
    proof = shop.prove("dead", "good")
    assert [one.name for one in proof.imports] == ["good"]
    assert re.search(r"import dead .*qemu may be at fault: .*SIGABRT", proof.not_proven[-1])


@pytest.mark.usefixtures("emulator")
def test_a_tree_without_python_fails(shop: Shop, tmp_path: Path) -> None:
    """It is no lack of this machine."""
    other = Shop(type(shop.place).copy(shop.place.root, tmp_path / "root"), OTHER)
    loader = (other.place.tree / OTHER.loader.lstrip("/")).parent
    (loader / Path(OTHER.loader).name).unlink()
    with pytest.raises(VerificationFailed, match="does not run Python through qemu"):
        other.prove("good")
    shutil.rmtree(other.place.root)


def nothing(shop: Shop, capsys: pytest.CaptureFixture[str]) -> str:
    proof: Proof = prove(shop.place.root, shop.report("good", "bad"), OTHER, Progress())
    assert (proof.how, proof.imports, capsys.readouterr().err) == ("nothing", (), "")
    assert proof.lines()[0].startswith(f"nothing of {OTHER.name} was run")
    return proof.lines()[1]


@pytest.mark.usefixtures("_unset")
def test_without_an_emulator_nothing_is_run(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said, and so is an emulator that no jail could have, which is not started."""
    said = "not proven: that anything can be imported or run: "
    assert nothing(shop, capsys).startswith(f"{said}no emulator is registered with binfmt_misc")
    with registered(""):
        assert nothing(shop, capsys).startswith(f"{said}/usr/bin/qemu-{OTHER.machine}-static is registered")
