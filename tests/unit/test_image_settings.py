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

SERVED: dict[str, Any] = GOOD | {
    "network": True,
    "network_allow": ["api.example.com:443", "10.0.0.0/8:*"],
    "image": "registry.example:5000/team/sandbox:1",
    "dependencies": [{"name": "numpy", "version": "2.2.4"}],
    "serve": {
        "port": 8194,
        "debug": True,
        "insecure": False,
        "key_sha256": "ab" * 32,
        "max_workers": 4,
        "max_requests": 50,
        "max_body_bytes": 32 << 20,
        "grace_s": 8.0,
        "preload": False,
        "spares": 4,
        "fresh": False,
        "warm": ["numpy", "os.path"],
        "env_allow": ["LANG"],
    },
}
"""What an image says that was built for serving."""

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
    "a destination that is an option": ({"network_allow": ["--x"]}, "has no port"),
    "a destination in another form": ({"network_allow": ["A.example:1"]}, "network_allow"),
    "an image with a line end": ({"image": "a\nb"}, "image"),
    "an image that is a number": ({"image": 7}, "is not text"),
    "a dependency without a version": ({"dependencies": [{"name": "a"}]}, "version"),
    "no server's": ({"serve": {}}, "port"),
    "a server that is a list": ({"serve": []}, "list"),
    **{
        f"a server's {name}": ({"serve": SERVED["serve"] | {name: value}}, said)
        for name, value, said in (
            ("port", "80", "port"),
            ("port", True, "port"),
            ("max_workers", -1, "max_workers"),
            ("grace_s", float("inf"), "grace_s"),
            ("grace_s", None, "grace_s"),
            ("spares", 1.5, "spares"),
            ("debug", 1, "debug"),
            ("key_sha256", "AB" * 32, "key_sha256"),
            ("key_sha256", None, "is not text"),
            ("warm", ["-c"], "cannot be imported"),
            ("env_allow", ["LD_PRELOAD"], "is read when a process starts"),
        )
    },
}


def image(folder: Path, settings: object) -> Path:
    """An unpacked image with nothing but these settings."""
    (folder / "sandbox").mkdir()
    if isinstance(settings, dict) and isinstance(settings.get("serve"), dict):
        serve = dict(settings["serve"])
        secrets = {"key_sha256": serve.pop("key_sha256", None)}
        (folder / "sandbox/secrets.json").write_text(json.dumps(secrets))
        settings = {**settings, "serve": serve}
    (folder / "sandbox/runtime.json").write_text(json.dumps(settings))
    return folder


def test_settings_as_we_write_them(tmp_path: Path) -> None:
    assert read_settings(image(tmp_path, SERVED)) == SERVED


def test_settings_as_they_were_before_there_was_a_server(tmp_path: Path) -> None:
    """An image of then can still be run; one uid was enough."""
    old = GOOD | {"uid_range": [10000, 1]}
    assert read_settings(image(tmp_path, old)) == old


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
