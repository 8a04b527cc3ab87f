"""Libraries of PyPI at work in the jail: a selection of small wheels; `make test-libraries` has them all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.suite import libraries
from tests.suite.place import Place, configured


@pytest.fixture(scope="module")
def place(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The image with the selection's wheels in its tree."""
    made = libraries.make_place(root, tmp_path_factory.mktemp("libraries") / "root", quick=True)
    yield made
    shutil.rmtree(made.root)


@pytest.mark.parametrize("name", libraries.quick_uses())
def test_a_library_works_under_the_default_policy(place: Place, name: str) -> None:
    """It ends well, says nothing on stderr, and is denied no call that is not listed."""
    assert [*libraries.faults_by_default(place, libraries.uses()[name])] == []


@pytest.mark.parametrize("name", libraries.quick_uses())
def test_what_a_trace_from_core_writes_is_enough(place: Place, name: str) -> None:
    """Two traces find the same, and under what the first one writes nothing is denied any more."""
    assert [*libraries.faults_of_trace(place, libraries.uses()[name])] == []


def test_core_alone_is_not_enough(place: Place) -> None:
    """The control: OpenBLAS can start no thread where the trace has not written anything, and gives up."""
    use = libraries.uses()["numpy"]
    place.govern(configured(use.config(replace=True, groups=["core"])))
    ended = place.run(use.code)
    assert ended.exit_code != 0
    assert "clone" in {one.call for one in ended.denied}
