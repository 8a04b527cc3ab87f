"""runtime.json of an image that anybody may have made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.errors import BuildError
from builder.image_settings import read_json, read_settings

GOOD: dict[str, Any] = {
    "python": "/usr/bin/python3",
    "sys_path": ["/usr/lib/python3.13"],
    "env": {"LANG": "C.UTF-8"},
    "env_keep": ["TZ"],
    "uid_range": [10000, 50000],
    "limits": {
        "memory_bytes": 1 << 30,
        "cpu_s": 10,
        "file_size_bytes": 1 << 20,
        "processes": 64,
        "open_files": 256,
        "output_bytes": 1 << 20,
        "scratch_bytes": 1 << 20,
    },
    "worker_timeout_s": 5.0,
    "network": False,
}

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a variable that is an option": ({"env": {"-Ssh -c id": "1"}}, "is not the name of a variable"),
    "NUL": ({"env": {"A": "\0"}}, "NUL"),
    "a value that is no text": ({"env": {"A": 1}}, "is not text"),
    "half a character": ({"env": {"A": "\ud800"}}, "surrogates not allowed"),
    "a kept option": ({"env_keep": ["-i"]}, "is not the name of a variable"),
    "a relative interpreter": ({"python": "bin/python"}, "is not an absolute path"),
    "an interpreter that climbs": ({"python": "/../bin/python"}, "climbs"),
    "a path with NUL": ({"sys_path": ["/a\0b"]}, "NUL"),
    "root": ({"uid_range": [0, 1]}, "is out of range"),
    "a uid in words": ({"uid_range": ["1000", 1]}, "two whole numbers"),
    "no limits": ({"limits": {}}, "memory_bytes"),
    "a mount option": ({"limits": GOOD["limits"] | {"scratch_bytes": "1,uid=0"}}, "scratch_bytes"),
    "a limit below nothing": ({"limits": GOOD["limits"] | {"processes": -1}}, "processes"),
    "a limit that is true": ({"limits": GOOD["limits"] | {"cpu_s": True}}, "cpu_s"),
    "a network in words": ({"network": "no"}, "network"),
    "no time": ({"worker_timeout_s": 0}, "worker_timeout_s"),
    "time without end": ({"worker_timeout_s": float("nan")}, "worker_timeout_s"),
}


def image(folder: Path, settings: object) -> Path:
    """An unpacked image with nothing but these settings."""
    (folder / "sandbox").mkdir()
    (folder / "sandbox/runtime.json").write_text(json.dumps(settings))
    return folder


def test_settings_as_we_write_them(tmp_path: Path) -> None:
    assert read_settings(image(tmp_path, GOOD)) == GOOD


@pytest.mark.parametrize("name", BAD)
def test_settings_that_no_config_leads_to(name: str, tmp_path: Path) -> None:
    """They would be arguments of programs that run as we do."""
    changed, said = BAD[name]
    with pytest.raises(BuildError, match=said):
        read_settings(image(tmp_path, GOOD | changed))


@pytest.mark.parametrize("settings", [None, [], 7, {}, "text"])
def test_settings_that_are_something_else(settings: object, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"runtime\.json of the image"):
        read_settings(image(tmp_path, settings))


def test_links_of_an_image_lead_nowhere_else(tmp_path: Path) -> None:
    """An absolute one starts at the image's own root, where the file is (the control) or is not."""
    outside = image(tmp_path, GOOD) / "sandbox"
    root = tmp_path / "root"
    root.mkdir()
    (root / "sandbox").symlink_to(outside)
    assert (root / "sandbox/runtime.json").is_file()
    with pytest.raises(BuildError, match="No such file"):
        read_settings(root)
    (root / "sandbox").unlink()
    (root / "sandbox").symlink_to("/elsewhere")
    (root / "elsewhere").mkdir()
    (root / "elsewhere/runtime.json").write_text(json.dumps(GOOD))
    assert read_settings(root) == GOOD


def test_a_file_without_end(tmp_path: Path) -> None:
    """Is read to a bound, and so is one that nests."""
    (image(tmp_path, GOOD) / "sandbox/runtime.json").write_text("[" * 100_000)
    with pytest.raises(BuildError, match="is larger than 1000 bytes"):
        read_json(tmp_path, "/sandbox/runtime.json", 1000)
    with pytest.raises(BuildError, match="is not JSON"):
        read_settings(tmp_path)
