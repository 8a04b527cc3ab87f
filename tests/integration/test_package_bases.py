"""Packages that are the base's own: Debian's, and those of a prefix outside /usr in a user's own image."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from builder.arch import host_arch
from builder.report import load_report
from builder.tree.spec import TREE_PATH
from tests.conftest import result_of, sandbox_build
from tests.integration.projects import Project
from tests.suite.libraries import uses

ARCH = host_arch()
BASE = f"sandbox-tests/conda:{os.getpid()}"
RESULT = f"sandbox-tests/of-conda:{os.getpid()}"
SITE = "/opt/env/lib/python3.13/site-packages"


def run(project: Project, code: str) -> str:
    """What `code` prints in the jail of a project's image."""
    done = sandbox_build("run", f"--output={project.output}", "-c", code)
    assert (done.exit_code, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_debians_numpy(tmp_path: Path) -> None:
    """`base_packages` alone: its imports are tried as those of any package; it computes in the jail.

    libblas.so.3 is a link of update-alternatives, which no script has made.
    """
    project = Project(tmp_path, tmp_path)
    project.write("base_packages: [python3-numpy]", "limits: {memory: 2GiB}")
    project.built()
    assert "numpy" in project.imported()
    assert not project.report()["warnings"]
    where = "import numpy; print(numpy.__file__)"
    assert run(project, where) == "/usr/lib/python3/dist-packages/numpy/__init__.py\n"
    assert run(project, uses()["numpy"].code) == ""
    blas = f"/usr/lib/{ARCH.triplet}/blas/libblas.so.3"
    assert load_report(project.image).resolve(blas).startswith(f"{blas}.")


@pytest.fixture
def conda(quick: Path, engine: docker.DockerClient, tmp_path: Path) -> Iterator[str]:
    """An image made from a Dockerfile, with numpy in a prefix of its own, laid out as conda does.

    Its extension modules find OpenBLAS in the prefix's lib, by $ORIGIN.
    """
    context = tmp_path / "image"
    site = context / f"rootfs{SITE}"
    site.mkdir(parents=True)
    built = quick / ARCH.name / "context"
    with tarfile.open(built / "packages.tar") as packages:
        members = (one for one in packages if one.name.lstrip("./").startswith("numpy"))
        packages.extractall(site, members, filter="fully_trusted")
    library = context / "rootfs/opt/env/lib"
    for path in (site / "numpy.libs").iterdir():
        path.rename(library / path.name)
    (site / "numpy.libs").rmdir()
    as_wheel, as_conda = b"$ORIGIN/../../numpy.libs\0", b"$ORIGIN/../../../..\0"
    changed = 0
    for path in site.rglob("*.so"):
        content = path.read_bytes()
        changed += content.count(as_wheel)
        path.write_bytes(content.replace(as_wheel, as_conda.ljust(len(as_wheel), b"\0")))
    assert changed >= 2
    shutil.copy(built / "target.tar", context)
    (context / "Dockerfile").write_text("FROM scratch\nADD target.tar /\nCOPY rootfs /\n")
    engine.images.build(path=str(context), tag=BASE, rm=True)
    shutil.rmtree(context)
    yield BASE
    for name in (RESULT, BASE):
        result_of(["docker", "image", "rm", "--force", name], None, 60)


def test_a_prefix_outside_usr_in_an_image_from_a_dockerfile(
    conda: str, quick_wheels: Path, tmp_path: Path
) -> None:
    """What python_lib_path lists and what is locked work side by side; the prefix's library is taken."""
    project = Project(tmp_path, quick_wheels)
    project.write(
        *(f"base: {conda}", "python_path: /usr/bin/python3.13", f"python_lib_path: [{SITE}]"),
        *("dependencies: [pyyaml]", "verify: {imports: [numpy.linalg]}"),
    )
    project.lock()
    project.built("--tag", RESULT, driver="docker")
    assert project.imported() >= {"numpy", "numpy.linalg", "yaml"}
    where = "import numpy, yaml; print(numpy.__file__, yaml.__file__)"
    assert run(project, where) == f"{SITE}/numpy/__init__.py /packages/yaml/__init__.py\n"
    assert run(project, uses()["numpy"].code) == ""
    in_docker = ["docker", "run", "--rm", "--network=none", f"--tmpfs={TREE_PATH}/tmp:mode=755", RESULT]
    done = result_of([*in_docker, "-c", uses()["numpy"].code], None, 60)
    assert (done.exit_code, done.stderr) == (0, "")
    prefix = [path for path in load_report(project.image).files if path.startswith("/opt/env/lib/lib")]
    assert [path.split("-")[0] for path in prefix] == ["/opt/env/lib/libscipy_openblas64_"]
