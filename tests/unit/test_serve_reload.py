"""What SIGHUP changes of a server's settings: all that the files say now, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.image import read_file
from runtime.settings import RELOADED, read_settings, reload
from tests.unit.served import KEYED, Image, environ, mounted, runtime_json


@pytest.fixture(scope="module")
def image() -> Image:
    return runtime_json


def test_a_reload_takes_what_the_files_say_now(image: Image, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("first\n")
    variables = environ(
        {
            "API_KEY_FILE": str(tmp_path / "key"),
            "SANDBOX_SETTINGS": mounted(tmp_path, {"max_workers": 2}),
            "MAX_REQUESTS": "60",
        }
    )
    old = read_settings(image(""), variables, read_file)
    (tmp_path / "key").write_text("second\n")
    content = {"max_workers": 8, "max_requests": 70, "worker_timeout": 20, "grace": 30, "debug": False}
    mounted(tmp_path, content)
    new, notes = reload(old, variables, read_file)
    assert (new.max_workers, new.max_requests) == (8, 70)
    assert (new.timeout_s, new.grace_s, new.debug) == (20, 30, False)
    assert new.knows("second")
    assert not new.knows("first")
    assert old.knows("first")
    assert notes == [
        "the key is changed",
        "max_workers: 2 is 8 now",
        "max_requests: 60 is 70 now",
        "timeout_s: 5 is 20 now",
        "grace_s: 8 is 30 now",
        "debug: True is False now",
    ]
    assert len(notes) == len(RELOADED)


def test_what_the_file_no_more_says_is_as_it_was_without_it(image: Image, tmp_path: Path) -> None:
    """The environment's key among it, of which only the digest is left."""
    path = mounted(tmp_path, {"max_workers": 2, "key": "of-the-settings"})
    variables = environ(KEYED | {"SANDBOX_SETTINGS": path, "MAX_WORKERS": "9"})
    old = read_settings(image(""), variables, read_file)
    assert old.knows("of-the-settings")
    mounted(tmp_path, {})
    new, notes = reload(old, variables, read_file)
    assert new.knows("of-the-environment")
    assert not new.knows("of-the-settings")
    assert notes == ["the key is changed", "max_workers: 2 is 9 now"]
    again, notes = reload(new, variables, read_file)
    assert again.knows("of-the-environment")
    assert notes == ["nothing is different"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"max_workers": 0}', b'{"key": ""}', b'{"key": "dify-sandbox"}', None]
)
def test_a_bad_file_leaves_everything_as_it_was(image: Image, content: bytes | None, tmp_path: Path) -> None:
    """What is good in it, too: half of a change is none. What is wrong is told."""
    path = Path(mounted(tmp_path, {"max_workers": 2, "key": "good"}))
    variables = environ({"SANDBOX_SETTINGS": str(path), "API_KEY": "dify-sandbox"})
    old = read_settings(image(""), variables, read_file)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    new, notes = reload(old, variables, read_file)
    assert new is old
    (note,) = notes
    assert note.startswith("nothing is changed: ")
    path.write_text('{"max_workers": 3, "key": "better"}')
    new, notes = reload(old, variables, read_file)
    assert new.knows("better")
    assert notes == ["the key is changed", "max_workers: 2 is 3 now"]


def test_a_reload_tells_of_new_warnings_alone(image: Image, tmp_path: Path) -> None:
    path = mounted(tmp_path, {})
    variables = environ(KEYED | {"SANDBOX_SETTINGS": path, "ALLOWED_SYSCALLS": "1"})
    old = read_settings(image(""), variables, read_file)
    mounted(tmp_path, {"grace": 1})
    _, notes = reload(old, variables, read_file)
    assert notes == [
        "grace_s: 8 is 1 now",
        "a run may take 5 s, but has 1 s to end when the service is stopped (GRACE)",
    ]
