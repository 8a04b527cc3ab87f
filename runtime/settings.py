"""What the service goes by: the image's runtime.json, the environment, and a file that may be mounted."""

from _operator import _compare_digest as compare_digest

from runtime.failure import USAGE, Refused
from runtime.image import parse_json
from runtime.seccomp import sha256_hex

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Values = dict[str, Any]

DEFAULT_KEY = "dify-sandbox"
WAYS_OUT = "set API_KEY (or API_KEY_FILE), or build the image with app: {insecure: true} in config.yaml"

TRUE, FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
"""Go's strconv.ParseBool, which dify-sandbox reads its environment with."""

DECIDED_AT_BUILD = (
    *("ENABLE_NETWORK", "ENABLE_PRELOAD", "ALLOWED_SYSCALLS", "PYTHON_PATH", "PYTHON_LIB_PATH"),
    *("SYSTEM_LIB_REQUIREMENTS", "PIP_MIRROR_URL", "PYTHON_DEPS_UPDATE_INTERVAL", "NODEJS_PATH"),
    *("SOCKS5_PROXY", "HTTP_PROXY", "HTTPS_PROXY"),
)
"""Variables of dify-sandbox that say what an image is made of."""


class Settings:
    """What is in force."""

    def __init__(self, image: "Values", values: "Values", key_digest: str, warnings: list[str]) -> None:
        """`values` are named as in runtime.json's `serve`, with `timeout_s`."""
        self.image = image
        self.port: int = values["port"]
        self.debug: bool = values["debug"]
        self.insecure: bool = values["insecure"]
        self.key_digest = key_digest
        """SHA-256 of the key, in hexadecimal; empty where there is none."""
        self.max_workers: int = values["max_workers"]
        self.max_requests: int = values["max_requests"]
        self.timeout_s: float = values["timeout_s"]
        self.grace_s: float = values["grace_s"]
        self.max_body_bytes: int = values["max_body_bytes"]
        self.preload: bool = values["preload"]
        self.fresh: bool = values["fresh"]
        self.env_allow: list[str] = values["env_allow"]
        self.warnings = warnings

    def knows(self, key: str) -> bool:
        """Whether `key` is the key, in a time that says nothing of it."""
        if not self.key_digest:
            return True
        return bool(compare_digest(sha256_hex(key.encode("utf-8", "surrogateescape")), self.key_digest))


def read_settings(
    image: "Values", environ: dict[bytes, bytes], read_file: "Callable[[str], bytes]"
) -> Settings:
    """The settings of a start; Refused, with all that is wrong, where they cannot be."""
    problems: list[str] = []
    values: Values = {**image["serve"], "timeout_s": image["worker_timeout_s"]}
    text = {
        name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in environ.items()
    }
    for variable, (name, read, what) in FROM_ENVIRONMENT.items():
        if given := text.get(variable, "").strip():
            value = read(given)
            if value is None:
                problems.append(f"{variable}: {given[:40]!r} is not {what}")
            else:
                values[name] = value
    key = text.get("API_KEY", "")
    if path := text.get("SANDBOX_SETTINGS"):
        key = _from_file(path, read_file, values, problems) or key
    if path := text.get("API_KEY_FILE"):
        try:
            key = read_file(path).decode("utf-8", "replace").strip()
        except OSError as error:
            problems.append(f"API_KEY_FILE: {path}: {error.strerror}")
    if problems:
        raise Refused(USAGE, "; ".join(problems), "the environment and SANDBOX_SETTINGS override the image")
    digest = sha256_hex(key.encode("utf-8", "surrogateescape")) if key else str(values["key_sha256"])
    if not values["insecure"]:
        if not digest:
            raise Refused(USAGE, "there is no API key", WAYS_OUT)
        if digest == sha256_hex(DEFAULT_KEY.encode()):
            raise Refused(USAGE, f"the API key is the one that everybody knows: {DEFAULT_KEY}", WAYS_OUT)
    warnings = [
        f"{name} has no effect here: it is decided when the image is built"
        for name in DECIDED_AT_BUILD
        if text.get(name)
    ]
    if values["insecure"] and not digest:
        warnings.append("app.insecure: whoever reaches the port may run code")
    return Settings(image, values, digest, warnings)


def reload(
    old: Settings, environ: dict[bytes, bytes], read_file: "Callable[[str], bytes]"
) -> tuple[Settings, list[str]]:
    """The settings after SIGHUP, and what to say of them: what is wrong leaves everything as it was."""
    try:
        new = read_settings(old.image, environ, read_file)
    except Refused as refused:
        return old, [f"nothing is changed: {refused}"]
    notes = []
    for name in RELOADED:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            notes.append("the key is changed" if name == "key_digest" else f"{name}: {before} is {after} now")
    if new.port != old.port:
        notes.append("another port needs a restart")
        new.port = old.port
    return new, notes or ["nothing is different"]


def _from_file(path: str, read_file: "Callable[[str], bytes]", values: "Values", problems: list[str]) -> str:
    """Takes what the JSON file at `path` says into `values`; the key that it has."""
    try:
        content = parse_json(read_file(path))
    except OSError as error:
        problems.append(f"SANDBOX_SETTINGS: {path}: {error.strerror}")
        return ""
    except (ValueError, RecursionError):
        problems.append(f"SANDBOX_SETTINGS: {path} is not JSON")
        return ""
    if not isinstance(content, dict):
        problems.append(f"SANDBOX_SETTINGS: {path} is not an object")
        return ""
    key = ""
    for name, given in content.items():
        if name == "key" and isinstance(given, str):
            key = given
            continue
        target, read, what = IN_FILE.get(name, ("", None, ""))
        value = None if read is None else read(str(given).lower() if isinstance(given, bool) else str(given))
        if value is None:
            known = ", ".join([*IN_FILE, "key"])
            problems.append(
                f"SANDBOX_SETTINGS: {name}: {str(given)[:40]!r} is not {what}"
                if target
                else f"SANDBOX_SETTINGS: no such setting: {name[:40]!r}; there are {known}"
            )
        else:
            values[target] = value
    return key


def _whole(least: int, most: int) -> "Callable[[str], int | None]":
    def read(text: str) -> int | None:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
        return number if least <= number <= most else None

    return read


def _seconds(least: float, most: float) -> "Callable[[str], float | None]":
    def read(text: str) -> float | None:
        try:
            number = float(text)
        except ValueError:
            return None
        return number if least <= number <= most else None

    return read


def _flag(text: str) -> bool | None:
    return True if text in TRUE else False if text in FALSE else None


_PORT = (_whole(1, 65535), "a port, 1 to 65535")
_WORKERS = ("max_workers", _whole(1, 10_000), "a number from 1 to 10000")
_REQUESTS = ("max_requests", _whole(1, 1_000_000), "a number from 1 to 1000000")
_TIMEOUT = ("timeout_s", _seconds(0.001, 86400), "a number of seconds, at most 86400")
_GRACE = ("grace_s", _seconds(0, 3600), "a number of seconds, at most 3600")
_DEBUG = ("debug", _flag, "true or false")

FROM_ENVIRONMENT: "dict[str, Any]" = {
    "SANDBOX_PORT": ("port", *_PORT),
    "PORT": ("port", *_PORT),  # what platforms set; it comes last, and so first
    "DEBUG": _DEBUG,
    "MAX_WORKERS": _WORKERS,
    "MAX_REQUESTS": _REQUESTS,
    "WORKER_TIMEOUT": _TIMEOUT,
    "GRACE": _GRACE,
}
"""Environment variables: the setting, how it is read (None: it cannot be), and what it must be."""

IN_FILE: "dict[str, Any]" = {
    "max_workers": _WORKERS,
    "max_requests": _REQUESTS,
    "worker_timeout": _TIMEOUT,
    "grace": _GRACE,
    "debug": _DEBUG,
}
"""What a file named by SANDBOX_SETTINGS may say, and `key` besides."""

RELOADED = ("key_digest", "max_workers", "max_requests", "timeout_s", "grace_s", "debug")
