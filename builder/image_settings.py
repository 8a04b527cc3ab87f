"""What an image says of itself in /sandbox/runtime.json, checked: an image need not be one that we built."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError

from builder.config_values import absolute_path, any_uid_range, variable_name, variable_value
from builder.errors import BuildError, UsageError
from builder.package_values import module_name
from builder.reference import parse_reference
from builder.serve_values import destination, requested_variable
from builder.tree.root import Root
from builder.tree.spec import REPORT_PATH, SANDBOX_PATH, TREE_PATH

SETTINGS_PATH = f"{SANDBOX_PATH}/runtime.json"
SECRETS_PATH = f"{SANDBOX_PATH}/secrets.json"

_MOST_BYTES = 1 << 20
_MOST_REPORT_BYTES = 256 << 20
_ANEW = "build the image again"
_LIMITS = (
    *("memory_bytes", "cpu_s", "file_size_bytes", "processes"),
    *("open_files", "output_bytes", "scratch_bytes"),
)
_HIGHEST = 1 << 50
"""As config.yaml has it for sizes."""

_SERVE_NUMBERS = ("port", "max_workers", "max_requests", "max_body_bytes", "grace_s", "spares")
_SERVE_FLAGS = ("debug", "insecure", "preload", "fresh")
_KEY_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")


def read_json(root: Path, jail_path: str, most_bytes: int) -> Any:
    """The JSON at `jail_path` of the image that is unpacked at `root`, whose links lead nowhere else.

    BuildError where there is none, or more than `most_bytes`.
    """
    image = Root(root)
    try:
        path = image.host(image.resolve(jail_path).path)
        if not path.is_file():
            raise BuildError(f"{jail_path} of the image is no file", _ANEW)
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise BuildError(f"{jail_path} of the image: {error.strerror}", _ANEW) from None
    if len(content) > most_bytes:
        raise BuildError(f"{jail_path} of the image is larger than {most_bytes} bytes", _ANEW)
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise BuildError(f"{jail_path} of the image is not JSON", _ANEW) from None


def read_report(root: Path) -> Any:
    """report.json of the image that is unpacked at `root`; BuildError as from read_json."""
    return read_json(root, REPORT_PATH, _MOST_REPORT_BYTES)


def jail_tree(root: Path) -> Root:
    """The jail tree of the image that is unpacked at `root`; BuildError where there is none."""
    image = Root(root)
    real = image.real(TREE_PATH)
    if real is None or not image.host(real).is_dir():
        raise BuildError(f"{TREE_PATH} of the image is no folder", _ANEW)
    return Root(image.host(real))


def read_settings(root: Path) -> dict[str, Any]:
    """runtime.json and secrets.json of the image at `root`; an older one lacks what a server goes by.

    BuildError where a value is not one that config.yaml could have led to: parts of it become arguments of
    programs that run as we do.
    """
    settings = read_json(root, SETTINGS_PATH, _MOST_BYTES)
    try:
        if isinstance(settings.get("serve"), dict):
            settings["serve"]["key_sha256"] = read_json(root, SECRETS_PATH, _MOST_BYTES)["key_sha256"]
        _check(settings)
    except PydanticCustomError as error:
        raise BuildError(f"{SETTINGS_PATH} of the image: {error.message()}", _ANEW) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BuildError(
            f"{SETTINGS_PATH} of the image is not as we write it: {error!r:.200}", _ANEW
        ) from None
    return dict(settings)


def _check(settings: dict[str, Any]) -> None:
    absolute_path(_text(settings["python"]))
    for path in settings["sys_path"]:
        variable_value(_text(path))
    for name, value in settings["env"].items():
        variable_name(name)
        variable_value(_text(value))
    for name in settings["env_keep"]:
        variable_name(_text(name))
    any_uid_range(settings["uid_range"])
    for name in _LIMITS:
        value = settings["limits"][name]
        if type(value) is not int or not 0 <= value < _HIGHEST:
            raise ValueError(f"limits.{name}: {value!r:.60}")
    timeout_s = settings["worker_timeout_s"]
    if type(timeout_s) not in (int, float) or not 0 < timeout_s < 2**63 / 1e9:
        raise ValueError(f"worker_timeout_s: {timeout_s!r:.60}")
    if not isinstance(settings["network"], bool):
        raise ValueError(f"network: {settings['network']!r:.60}")
    # An image that was built before there was a server has none of these.
    for target in settings.get("network_allow") or ():
        if destination(_text(target)) != target:
            raise ValueError(f"network_allow: {target!r:.60}")
    if "image" in settings:
        _reference(_text(settings["image"]))
    for one in settings.get("dependencies", ()):
        _text(one["name"]), _text(one["version"])
    if "serve" in settings:
        _check_serve(settings["serve"])


def _check_serve(serve: dict[str, Any]) -> None:
    for name in _SERVE_NUMBERS:
        value = serve[name]
        if type(value) is not int and not (name == "grace_s" and type(value) is float):
            raise TypeError(f"serve.{name}: {value!r:.60}")
        if not 0 <= value < _HIGHEST:
            raise ValueError(f"serve.{name}: {value!r:.60}")
    for name in _SERVE_FLAGS:
        if not isinstance(serve[name], bool):
            raise TypeError(f"serve.{name}: {serve[name]!r:.60}")
    if not _KEY_DIGEST.fullmatch(_text(serve["key_sha256"])):
        raise ValueError("serve.key_sha256 is no SHA-256")
    for name in serve["warm"]:
        module_name(_text(name))
    for name in serve["env_allow"]:
        requested_variable(_text(name))


def _reference(text: str) -> None:
    try:
        parse_reference(text)
    except UsageError as error:
        raise ValueError(f"image: {error.message}") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is not text")
    value.encode("utf-8", "surrogateescape")  # ValueError for what no argument can be
    return value
