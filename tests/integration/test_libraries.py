"""Libraries of PyPI in the jail, as a build puts them there; `make test-libraries` has them all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.arch import host_arch
from tests.binfmt import OTHER
from tests.suite import libraries
from tests.suite.place import Place, configured


@pytest.fixture(scope="module")
def place(quick_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An image with a selection of small libraries, under policies of the tests' own."""
    made = Place.copy(quick_root, tmp_path_factory.mktemp("libraries") / "root")
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


def test_the_imports_of_both_architectures_were_tried(quick: Path) -> None:
    """The same ones: here in the jail, there through qemu, where no crash was passed over."""
    proofs = {}
    for arch in (host_arch(), OTHER):
        proofs[arch] = json.loads((quick / arch.name / "report.json").read_bytes())["proof"]
    own, other = proofs[host_arch()], proofs[OTHER]
    assert (own["how"], own["not_proven"]) == ("jail", [])
    assert (other["how"], len(other["not_proven"])) == ("emulated", 3)
    names = {one["name"] for one in own["imports"]}
    assert {"PIL", "lxml", "numpy", "orjson", "pandas", "yaml", "dateutil", "tzdata"} <= names
    assert {one["name"] for one in other["imports"]} == names
