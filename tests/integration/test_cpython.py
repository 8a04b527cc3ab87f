"""CPython's own tests in the jail: a selection; `make test-cpython` runs all that make sense there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.suite import cpython
from tests.suite.place import Place, configured

QUICK = [module for module in cpython.modules().values() if module.quick]


@pytest.fixture(scope="module")
def place(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The image with CPython's tests in its tree."""
    made = cpython.make_place(root, tmp_path_factory.mktemp("cpython") / "root")
    yield made
    shutil.rmtree(made.root)


@pytest.mark.parametrize("module", QUICK, ids=lambda module: module.name)
def test_a_module_fails_inside_as_listed_and_no_further(place: Place, module: cpython.Module) -> None:
    """Under the groups that the list names, each test passes, fails outside as well, or has its reason."""
    place.govern(configured(module.config))
    assert cpython.faults(place, module) == []


def test_a_denied_call_is_a_fault(place: Place) -> None:
    """test_json starts interpreters: under the default policy those tests fail, and are not listed."""
    module = cpython.Module("test_json", groups=(), allow=(), quick=False, fails={})
    place.govern(configured(module.config))
    faults = cpython.faults(place, module)
    assert faults
    assert all("test_tool" in fault and "PermissionError" in fault for fault in faults)


def test_a_reason_for_what_passes_is_a_fault(place: Place) -> None:
    """A test that is listed and passes must come off the list."""
    module = cpython.Module("test_zoneinfo", groups=(), allow=(), quick=False, fails={"test.*": "no reason"})
    place.govern(configured(module.config))
    assert cpython.faults(place, module) == ["test.* passes, or fails in the control"]
