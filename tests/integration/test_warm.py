"""What a build proposes for `warm:`, and what cannot be warm; a warm module that is missing ends a build."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.arch import host_arch
from builder.progress import Progress
from builder.proof import ProofFailed
from builder.warm import Proposal, propose
from tests.conftest import sandbox_build
from tests.shop import Shop
from tests.wheels import wheel

SLOW = "import time\ntime.sleep(0.05)\n"
PACKAGES = {
    "slow": SLOW,
    "slower": f"{SLOW}{SLOW}import slow\n",
    "quick": "",
    "waits": f"{SLOW}import threading\nevent = threading.Event()\n"
    "threading.Thread(target=event.wait, daemon=True).start()\n",
    "knows": f"{SLOW}import os, threading\nevent = threading.Event()\n"
    "thread = threading.Thread(target=event.wait, daemon=True)\nthread.start()\n"
    "os.register_at_fork(before=lambda: (event.set(), thread.join()))\n",
    # A thread that Python knows nothing of, as of a C library.
    "native": f"{SLOW}import ctypes, time\nlibc = ctypes.CDLL(None)\nthread = ctypes.c_ulong()\n"
    "libc.pthread_create(ctypes.byref(thread), None, libc.pause, None)\n",
    "opens": f"{SLOW}import os\nfile = open(os.__file__)\n",
    "closes": f"{SLOW}import os\nopen(os.__file__).close()\n",
    "alone": f"{SLOW * 6}import sys\nassert 'slow' not in sys.modules\n",
    "ends": f"{SLOW * 6}import sys, os\nif 'slow' in sys.modules: os._exit(7)\n",
    "uses_waits": f"{SLOW}{SLOW}import waits\n",
}


@pytest.fixture(scope="module")
def shop(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    made = Shop.open(root, tmp_path_factory.mktemp("shop") / "root", host_arch())
    for name, code in PACKAGES.items():
        made.add(name, {f"{name}.py": code})
    yield made
    shutil.rmtree(made.place.root)


def proposal(shop: Shop, *names: str, brought: tuple[str, ...] = (), **serve: Any) -> Proposal | None:
    """What is proposed for an image with the packages `names`; others bring along those of `brought`."""
    path = shop.place.root / "sandbox/runtime.json"
    settings = shop.place.settings
    settings["serve"] |= {"warm": [], "fresh": False} | serve
    path.unlink()  # another root may share its bytes
    path.write_text(json.dumps(settings))
    report = shop.report(*names, warm=settings["serve"]["warm"])
    report["origins"] = [
        {"what": f"{name} 1.0", "kind": "package", "because": 0 if name in brought else None}
        for name in names
    ]
    proof = shop.prove(*names, warm=settings["serve"]["warm"])
    return propose(shop.place.root, report, proof, Progress(quiet=True))


def made(shop: Shop, *names: str, **more: Any) -> Proposal:
    found = proposal(shop, *names, **more)
    assert found is not None
    return found


def test_what_takes_long_is_proposed(shop: Shop) -> None:
    """With what it saves in all; what is quick, or comes along with another package, is not."""
    found = made(shop, "slow", "slower", "quick", "closes", brought=("closes",))
    assert found.modules == ("slow", "slower")
    assert found.faults == {}
    assert found.saves_s >= 0.15  # three sleeps of 50 ms
    saved = f"{found.saves_s * 1000:.0f}"
    assert found.lines() == [
        f"warm: [slow, slower] in config.yaml would save {saved} ms of each run that imports them"
    ]


def test_what_is_warm_already_is_not_proposed(shop: Shop) -> None:
    """Nor what it has imported; what comes besides stands behind it."""
    assert made(shop, "slow", "slower", warm=["slow", "slower"]).lines() == []
    assert made(shop, "slow", warm=["slower"]).lines() == []
    found = made(shop, "slow", "closes", warm=["slow"])
    assert found.modules == ("closes",)
    (line,) = found.lines()
    assert line.startswith("warm: [slow, closes] in config.yaml would save ")
    assert line.endswith(" ms of each run that imports closes")


def test_nothing_is_proposed_where_nothing_is_warm(shop: Shop) -> None:
    """With `fresh: true` each run has a new interpreter; the control is the same without."""
    assert proposal(shop, "slow", fresh=True) is None
    assert made(shop, "slow").modules == ("slow",)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("waits", "its import starts 1 thread, which stays behind in a fork"),
        ("native", "its import starts 1 thread, which stays behind in a fork"),
        ("opens", "its import leaves 1 descriptor open, for all runs"),
        ("alone", "it cannot be imported after the others: AssertionError: "),
        ("ends", "importing it after the others ended the process (exit code 7)"),
    ],
)
def test_what_cannot_be_forked_is_not_proposed(shop: Shop, name: str, fault: str) -> None:
    """The reason is told, and the others are proposed all the same."""
    # The slower its import, the later it comes.
    shop.add("slow", {"slow.py": "import time\ntime.sleep(0.03)\n"})
    found = made(shop, "slow", name)
    assert found.faults == {name: fault}
    assert found.modules == ("slow",)
    assert found.lines()[1:] == [f"warm: not {name}: {fault}"]


@pytest.mark.parametrize("name", ["knows", "closes"])
def test_what_can_be_forked_is_proposed(shop: Shop, name: str) -> None:
    """The controls: a thread that its module ends before a fork, a descriptor that is closed."""
    assert made(shop, name).modules == (name,)


def test_what_imports_a_module_with_a_fault_has_it_too(shop: Shop) -> None:
    """Its own import, once the other is not there, starts the thread."""
    found = made(shop, "waits", "uses_waits")
    assert found.modules == ()
    assert found.faults.keys() == {"waits", "uses_waits"}


def test_a_fault_of_what_is_warm_is_told(shop: Shop) -> None:
    """Whoever writes config.yaml decides, and is told."""
    found = made(shop, "waits", warm=["waits"])
    assert found.lines() == ["warm: not waits: its import starts 1 thread, which stays behind in a fork"]


def test_a_warm_module_is_tried_whatever_is_skipped(shop: Shop) -> None:
    """No server would start without it; a module of the standard library counts as well."""
    for skip in ([], ["broken"]):
        with pytest.raises(ProofFailed) as caught:
            shop.prove(skip=skip, warm=["broken", "json"])
        assert caught.value.message.startswith("import broken (warm) fails in the finished jail of ")
        assert caught.value.message.endswith(": ModuleNotFoundError: No module named 'broken'")
        assert (caught.value.hint or "").endswith("or take it out of warm")
    assert {one.name for one in shop.prove(warm=["json"]).imports} == {"json"}


def test_a_build(tmp_path: Path) -> None:
    """Proposes on stderr and in report.json; ends with one line where a warm module is not in the image."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "sleeper", files={"sleeper.py": SLOW.encode()})
    config = tmp_path / "config.yaml"
    config.write_text("dependencies: [sleeper]\n")
    options = [f"--config={config}", f"--wheelhouse={wheels}", "--no-index"]
    locked = sandbox_build("lock", *options)
    assert locked.exit_code == 0, locked.stderr
    options += ["--driver=oci", f"--output={tmp_path / 'dist'}"]
    built = sandbox_build(*options)
    assert built.exit_code == 0, built.stderr
    assert re.search(r"^  warm: \[sleeper\] in config.yaml would save \d+ ms of each", built.stderr, re.M)
    report = json.loads((tmp_path / "dist" / host_arch().name / "report.json").read_text())
    assert report["warm"]["modules"] == ["sleeper"]
    assert report["warm"]["saves_s"] >= 0.05

    config.write_text("dependencies: [sleeper]\nwarm: [sleeper, sleepless]\n")
    refused = sandbox_build(*options)
    assert refused.exit_code == 4
    assert [line for line in refused.stderr.splitlines() if line.startswith("error:")] == [
        f"error: import sleepless (warm) fails in the finished jail of {host_arch().name}: "
        "ModuleNotFoundError: No module named 'sleepless'"
    ]
