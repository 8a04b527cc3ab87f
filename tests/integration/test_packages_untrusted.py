"""Locks, caches and indexes that are not what they should be: each is found out before anything is used."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from builder import transfer
from builder.errors import BuildError
from builder.packages import Lock, read_lock
from builder.transfer import Transfer
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


def test_a_file_is_no_larger_than_its_index_says(tmp_path: Path) -> None:
    """What comes beyond that is not even written; neither is what comes too slowly waited for."""
    path = wheel(tmp_path, "a")
    size = path.stat().st_size
    way = Transfer(threading.Event(), hint="")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert way.fetch(path.as_uri(), size, tmp_path / "copy", "a") == digest
    with pytest.raises(BuildError, match=f"a is larger than {size - 1} bytes"):
        way.fetch(path.as_uri(), size - 1, tmp_path / "copy", "a")


def test_a_silent_server_is_left_when_we_are_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its time is over; the control: as long as we are not, it is asked three times."""
    monkeypatch.setattr(transfer, "_TIMEOUT_S", (10, 0.3))
    monkeypatch.setattr(transfer, "_PAUSE_S", 0.01)
    for stopped, asked in ((True, 1), (False, 3)):
        with socket.create_server(("127.0.0.1", 0)) as server:
            stop = threading.Event()
            connections: list[socket.socket] = []

            def take(server: socket.socket, connections: list[socket.socket]) -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connections.append(server.accept()[0])

            threading.Thread(target=take, args=(server, connections), daemon=True).start()
            if stopped:
                threading.Timer(0.1, stop.set).start()
            url = f"http://127.0.0.1:{server.getsockname()[1]}/a"
            with pytest.raises(BuildError, match="stopped" if stopped else "timed out"):
                Transfer(stop, hint="", environ={}).fetch(url, None, tmp_path / "copy", "a")
            assert len(connections) == asked
            for connection in connections:
                connection.close()


def test_a_server_that_drips_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes before the time-out of a single read is over."""
    monkeypatch.setattr(transfer, "_STALL_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(1000):
                    connection.sendall(b"x")
                    time.sleep(0.02)

        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a-1.0-py3-none-any.whl"
        with pytest.raises(BuildError, match=r"a cannot be fetched: in 0\.5 s there came \d+ bytes"):
            Transfer(threading.Event(), hint="", environ={}).fetch(url, None, tmp_path / "copy", "a")
