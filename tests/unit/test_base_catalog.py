"""Which bases there are, and where their interpreter is."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml

from builder.arch import ARCHES, host_arch
from builder.base import assembler_command, open_base
from builder.base.image import ImageBase
from builder.bases import default_python_path, find_suite
from builder.config import parse_base
from builder.errors import BuildError, ConfigError, ToolMissing, UsageError
from builder.progress import Progress
from builder.tree.spec import TreeSpec
from tests.fakeroot import ARCH, LIBRARIES, PYTHON, python_root

OTHER = next(arch for arch in ARCHES.values() if arch != host_arch())


def test_every_package_of_every_suite_has_a_reason() -> None:
    """images/python/bases.yaml says why each package is there, and the interpreter's is among them."""
    suites = yaml.safe_load(resources.files("images").joinpath("python", "bases.yaml").read_text())["debian"]
    assert set(suites) == {"trixie", "bookworm"}
    for name in suites:
        suite = find_suite(name)
        assert all(suite.packages.values())
        assert f"{Path(suite.python_path).name}-minimal" in suite.packages


def test_an_unknown_suite_is_an_error_that_names_the_known_ones(tmp_path: Path) -> None:
    """Exit code 2 with a did-you-mean, before anything is fetched."""
    with pytest.raises(ConfigError) as failure:
        open_base(
            parse_base("debian:trixy"),
            mirror=None,
            cache=tmp_path,
            refresh=False,
            progress=Progress(quiet=True),
        )
    assert failure.value.problems == [
        (
            "base: debian:trixy is no base that we know",
            "did you mean debian:trixie? there are debian:trixie and debian:bookworm",
        )
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("base", "python_path"),
    [
        ("debian:trixie", "/usr/bin/python3.13"),
        ("debian:bookworm", "/usr/bin/python3.11"),
        ("python:3.13-slim", "/usr/local/bin/python3"),
    ],
)
def test_the_interpreter_when_config_yaml_names_none(base: str, python_path: str) -> None:
    """Each kind of base has its own place for it."""
    assert default_python_path(parse_base(base)) == python_path


def test_the_interpreter_of_the_host_is_the_real_one_and_not_a_virtual_environments() -> None:
    """`host` takes what runs us, in the installation that a virtual environment was made from."""
    python_path = Path(default_python_path(parse_base("host")))
    assert python_path.is_file()
    assert not (python_path.parents[1] / "pyvenv.cfg").exists()
    assert str(python_path).startswith(f"{sys.base_prefix}/")


def test_the_host_is_no_base_for_another_architecture(tmp_path: Path) -> None:
    """UsageError, exit code 2, with what to do."""
    base = open_base(
        parse_base("host"), mirror=None, cache=tmp_path, refresh=False, progress=Progress(quiet=True)
    )
    with pytest.raises(UsageError, match=f"this machine is {host_arch().name}") as failure:
        base.rootfs(OTHER)
    assert failure.value.exit_code == 2
    assert "debian:trixie" in str(failure.value.hint)


def test_the_files_of_the_host_may_be_others_at_any_time(tmp_path: Path) -> None:
    """Two looks at this machine never count as the same base, so that no build takes it for unchanged."""
    base = open_base(
        parse_base("host"), mirror=None, cache=tmp_path, refresh=False, progress=Progress(quiet=True)
    )
    first, second = base.rootfs(host_arch()), base.build_rootfs()
    assert first is not None
    assert second is not None
    assert first.directory == second.directory == Path("/")
    assert first.identity != second.identity


def test_an_image_has_no_root_filesystem_here() -> None:
    """Only Docker can have it."""
    base = ImageBase("python:3.13-slim")
    assert base.rootfs(host_arch()) is None  # type: ignore[func-returns-value]
    assert base.build_rootfs() is None  # type: ignore[func-returns-value]


def test_without_mmdebstrap_there_is_a_line_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3, and nothing half-written in the cache."""
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    base = open_base(
        parse_base("debian:trixie"), mirror=None, cache=tmp_path, refresh=False, progress=Progress(quiet=True)
    )
    with pytest.raises(ToolMissing) as failure:
        base.rootfs(host_arch())
    assert (failure.value.exit_code, failure.value.hint) == (3, "apt-get install mmdebstrap")
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".lock"}
    assert not list(tmp_path.rglob("new-*"))


def test_a_cache_that_cannot_be_written_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """A file where the cache's folder should be, for one."""
    (tmp_path / "cache").write_text("")
    base = open_base(
        parse_base("debian:trixie"),
        mirror=None,
        cache=tmp_path / "cache",
        refresh=False,
        progress=Progress(quiet=True),
    )
    with pytest.raises(BuildError, match="Not a directory") as failure:
        base.rootfs(host_arch())
    assert "XDG_CACHE_HOME" in str(failure.value.hint)


def test_the_assembler_runs_by_the_bases_own_loader(tmp_path: Path) -> None:
    """Loader and interpreter by their real paths, the libraries' folders of the base, and no other's."""
    root = python_root(tmp_path)
    command = assembler_command(tmp_path, TreeSpec(ARCH.name, "the base", "/bin/python3", None), ARCH)
    assert command[0] == str(root.host(f"{LIBRARIES}/ld-real.so"))
    assert command[1:3] == ("--argv0", str(root.host(f"/usr/bin/{PYTHON}")))
    folders = command[4].split(":")
    assert folders[0] == str(root.host(LIBRARIES))
    assert all(Path(folder).is_dir() and Path(folder).is_relative_to(tmp_path) for folder in folders)
    assert command[5:] == (str(root.host(f"/usr/bin/{PYTHON}")), "-I", "-S", "-B")


def test_on_the_host_the_interpreter_runs_as_it_is() -> None:
    """No other loader is needed where the root is this machine's own."""
    python_path = default_python_path(parse_base("host"))
    assert assembler_command(Path("/"), TreeSpec(ARCH.name, "host", python_path, None), ARCH) == (
        str(Path(python_path).resolve()),
        "-I",
        "-S",
        "-B",
    )
