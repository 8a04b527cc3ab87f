"""One image per architecture, and one machine per image, for the whole session."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from builder.arch import ARCHES
from tests.conftest import sandbox_build
from tests.machine.machine import BOARDS, Machine, running

pytest.register_assert_rewrite("tests.machine.comparing", "tests.escape.attacks")

T = TypeVar("T")


class Machines:
    """Two machines that differ by their architecture alone."""

    def __init__(self, amd64: Machine, arm64: Machine) -> None:
        self.amd64 = amd64
        self.arm64 = arm64

    def each(self, ask: Callable[[Machine], T]) -> tuple[T, T]:
        """What `ask` returns for amd64 and for arm64, asked at the same time."""
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(ask, (self.amd64, self.arm64))
        return one, other


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped config's image for each architecture, by the oci driver."""
    output = tmp_path_factory.mktemp("machine")
    built = sandbox_build("--driver=oci", *(f"--arch={name}" for name in ARCHES), "--output", str(output))
    assert built.exit_code == 0, built.stderr
    return {name: output / name / "image.tar" for name in ARCHES}


@pytest.fixture(scope="session")
def machines(archives: dict[str, Path]) -> Iterator[Machines]:
    """Both, running the same version of Debian's kernel."""
    with ExitStack() as stack:
        started = {name: stack.enter_context(running(arch, archives[name])) for name, arch in ARCHES.items()}
        both = Machines(started["amd64"], started["arm64"])
        both.each(Machine.wait_until_up)
        yield both


@pytest.fixture(scope="session", autouse=True)
def _needs() -> None:
    """In the place of what other tests need: no Docker Engine."""
    needed = [*(board.program for board in BOARDS.values()), "mmdebstrap", "dpkg-deb", "setpriv"]
    missing = [tool for tool in needed if shutil.which(tool) is None]
    assert not missing, f"not installed: {missing}: run the tests with `make test-arm64`"
