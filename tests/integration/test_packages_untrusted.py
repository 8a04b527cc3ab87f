"""Locks, caches and indexes that are not what they should be: each is found out before anything is used."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.packages import Lock, read_lock
from tests.integration.wheelproject import ARM64, QUIET, Project
from tests.wheels import wheel


def changed_lock(project: Project, old: str, new: str) -> Lock:
    """The lock file with another text in it, read again."""
    text = project.lock_path.read_text()
    assert old in text
    project.lock_path.write_text(text.replace(old, new))
    return read_lock(project.lock_path, project.inputs())


@pytest.mark.parametrize("cached", [True, False])
def test_a_hash_of_another_package_is_refused(project: Project, cached: bool) -> None:
    """Of another name, and of another version of the same."""
    wheel(project.wheels, "evil", "1.0")
    wheel(project.wheels, "a", "1.0")
    wheel(project.wheels, "a", "2.0")
    right, *others = (
        hashlib.sha256((project.wheels / f"{name}-py3-none-any.whl").read_bytes()).hexdigest()
        for name in ("a-2.0", "a-1.0", "evil-1.0")
    )
    for requirement in ("a<2", "evil"):
        if cached:
            project.open(project.lock(requirement))
    for other in others:
        project.lock_path.unlink(missing_ok=True)
        project.lock("a")
        with pytest.raises(BuildError) as caught:
            project.open(changed_lock(project, right, other))
        assert caught.value.hint
        if cached:
            assert "a 2.0: the locked hash is that of" in caught.value.message


def test_a_package_that_nothing_asks_for_is_refused(project: Project) -> None:
    """It was added to the lock by hand; asked for, it is installed."""
    wheel(project.wheels, "a")
    evil = wheel(project.wheels, "evil")
    made = project.lock("a")
    assert (project.open(made).directory / "a.py").is_file()
    digest = hashlib.sha256(evil.read_bytes()).hexdigest()
    added = changed_lock(project, "a==1.0", f"evil==1.0 --hash=sha256:{digest}\na==1.0")
    with pytest.raises(BuildError, match="locked for arm64, but nothing asks for it: evil") as caught:
        project.open(added)
    assert "sandbox-build lock" in (caught.value.hint or "")
    assert (project.open(project.lock("a", "evil")).directory / "evil.py").is_file()


@pytest.mark.parametrize("damage", [b"other", None])
def test_a_damaged_cache_is_mended(project: Project, damage: bytes | None) -> None:
    """What is there under a hash and has not this hash is fetched again."""
    wheel(project.wheels, "a")
    made = project.lock("a")
    first = project.open(made)
    expected = first.tar.read_bytes()
    shutil.rmtree(first.directory.parent)
    (path,) = (project.cache / "wheels").glob("*/*.whl")
    right = path.read_bytes()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    assert project.open(made).tar.read_bytes() == expected
    assert path.read_bytes() == right


def test_uv_looks_at_the_locked_hash(tmp_path: Path) -> None:
    """It is told which it must be, and not which it is."""
    from builder.packages import uv

    path = wheel(tmp_path, "a")
    (tmp_path / "target").mkdir()
    with pytest.raises(BuildError, match="a file has another hash than the locked one"):
        uv.install({path: "0" * 64}, tmp_path / "target", "3.13", ARM64, QUIET)
