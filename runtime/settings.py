"""What the service goes by: the image's runtime.json, the environment, and files that may be mounted."""

from _operator import _compare_digest as compare_digest  # of hmac, which would load OpenSSL

from runtime.failure import USAGE, Refused
from runtime.image import TooLarge, parse_json

try:  # not of hashlib, which would load OpenSSL
    from _sha2 import sha256  # type: ignore[import-not-found]  # typeshed has it for 3.12 and later
except ImportError:  # Python 3.11
    from _sha256 import sha256  # type: ignore[import-not-found]

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Values = dict[str, Any]
    ReadFile = Callable[[str], bytes]

DEFAULT_KEY = "dify-sandbox"
WAYS_OUT = "set API_KEY (or API_KEY_FILE), or build the image with app: {insecure: true} in config.yaml"
OVERRIDES = "what is not set is as the image has it"
WHITESPACE = " \t\r\n"

TRUE, FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
"""Go's strconv.ParseBool, which dify-sandbox reads its environment with."""

DECIDED_AT_BUILD = (
    *("ENABLE_NETWORK", "ENABLE_PRELOAD", "ALLOWED_SYSCALLS", "PYTHON_PATH", "PYTHON_LIB_PATH"),
    *("SYSTEM_LIB_REQUIREMENTS", "PIP_MIRROR_URL", "PYTHON_DEPS_UPDATE_INTERVAL", "NODEJS_PATH"),
    *("SOCKS5_PROXY", "HTTP_PROXY", "HTTPS_PROXY"),
)
"""Variables of dify-sandbox that say what an image is made of."""

SERVICE_LINK = "tcp://"
"""Kubernetes sets SANDBOX_PORT=tcp://ADDRESS:PORT where there is a service that is named sandbox."""


class Settings:
    """What is in force."""

    def __init__(
        self, image: "Values", values: "Values", key_digest: str, environment_key: str, warnings: list[str]
    ) -> None:
        """`values` are named as in runtime.json's `serve`, with `timeout_s`; keys are digests."""
        self.image = image
        self.port: int = values["port"]
        self.debug: bool = values["debug"]
        self.insecure: bool = values["insecure"]
        self.key_digest = key_digest
        """SHA-256 of the key, in hexadecimal; empty where there is none."""
        self.environment_key = environment_key
        """That of API_KEY, which counts again where a file no more has another."""
        self.max_workers: int = values["max_workers"]
        self.max_requests: int = values["max_requests"]
        self.timeout_s = float(values["timeout_s"])
        self.grace_s = float(values["grace_s"])
        self.max_body_bytes: int = values["max_body_bytes"]
        self.preload: bool = values["preload"]
        self.fresh: bool = values["fresh"]
        self.env_allow: list[str] = values["env_allow"]
        self.warnings = warnings

    def knows(self, key: str) -> bool:
        """Whether `key` is the key, in a time that says nothing of it. Bytes that are no text are escaped."""
        if not self.key_digest:
            return True
        try:
            return bool(compare_digest(_digest(key), self.key_digest))
        except UnicodeEncodeError:
            return False  # half of a surrogate pair: a header has no such text, JSON has


def read_settings(image: "Values", environ: dict[bytes, bytes], read_file: "ReadFile") -> Settings:
    """The settings of a start; Refused, with all that is wrong, where they cannot be.

    Takes API_KEY out of `environ`: its digest is all that is kept of it.
    """
    reading = Reading(image, read_file)
    key = environ.pop(b"API_KEY", b"")
    if key.strip():
        reading.take_key("API_KEY", key)
    return reading.complete(environ, reading.key_digest)


def reload(old: Settings, environ: dict[bytes, bytes], read_file: "ReadFile") -> tuple[Settings, list[str]]:
    """The settings after SIGHUP, and what to say of them: where something is wrong, `old` itself, and why.

    A process keeps its environment: what may be new is what the files that it names say.
    """
    try:
        new = Reading(old.image, read_file).complete(environ, old.environment_key)
    except Refused as refused:
        return old, [f"nothing is changed: {refused}"]
    notes = []
    for name in RELOADED:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            changed = f"{name}: {_told(before)} is {_told(after)} now"
            notes.append("the key is changed" if name == "key_digest" else changed)
    notes += [warning for warning in new.warnings if warning not in old.warnings]
    return new, notes or ["nothing is different"]


class Reading:
    """Takes one source after the other; a later one has the last word. Keeps all that is wrong."""

    def __init__(self, image: "Values", read_file: "ReadFile") -> None:
        self.image = image
        self.read_file = read_file
        self.values: Values = {**image["serve"], "timeout_s": image["worker_timeout_s"]}
        self.key_digest = ""
        self.key_is_wrong = False
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def complete(self, environ: dict[bytes, bytes], environment_key: str) -> Settings:
        """Everything but API_KEY itself, of which `environment_key` is the digest; Refused, or Settings."""
        text = {
            name.decode("utf-8", "replace"): value.decode("utf-8", "replace").strip(WHITESPACE)
            for name, value in environ.items()
        }
        self.key_digest = environment_key or str(self.values["key_sha256"])
        self._take_environment(text)
        if path := text.get("SANDBOX_SETTINGS"):
            self._take_file(path)
        if path := text.get("API_KEY_FILE"):
            content = self._content("API_KEY_FILE", path)
            if content is None:
                self.key_is_wrong = True
            else:
                self.take_key(f"API_KEY_FILE: {path}", content)
        ways_out = self._check_key()
        if self.problems:
            raise Refused(USAGE, "; ".join(self.problems), ways_out or OVERRIDES)
        self._weigh(text)
        return Settings(self.image, self.values, self.key_digest, environment_key, self.warnings)

    def take_key(self, source: str, key: bytes) -> None:
        """A key that is given must be one that a header can carry, as a client would have to send it."""
        key = key.strip()
        if not key:
            self._wrong_key(f"{source}: the key is empty")
        elif min(key) < 32 or 127 in key:
            self._wrong_key(f"{source}: the key has a control character, which no header can carry")
        else:
            self.key_digest = str(sha256(key).hexdigest())

    def _wrong_key(self, problem: str) -> None:
        self.key_is_wrong = True
        self.problems.append(problem)

    def _take(self, source: str, given: str, setting: "tuple[str, Any, str]") -> None:
        name, read, what = setting
        value = read(given)
        if value is None:
            self.problems.append(f"{source}: {given[:40]!a} is not {what}")
        else:
            self.values[name] = value

    def _take_environment(self, text: dict[str, str]) -> None:
        if text.get("SANDBOX_PORT", "").startswith(SERVICE_LINK):
            del text["SANDBOX_PORT"]
            self.warnings.append(
                "SANDBOX_PORT has no effect: Kubernetes has set it, for a service named sandbox"
            )
        for variable, setting in FROM_ENVIRONMENT.items():
            if given := text.get(variable):
                self._take(variable, given, setting)

    def _take_file(self, path: str) -> None:
        data = self._content("SANDBOX_SETTINGS", path)
        if data is None:
            return
        try:
            content = parse_json(data.strip())
        except (ValueError, TypeError, RecursionError):  # TypeError: a NaN
            content = None
        if not isinstance(content, dict):
            self.problems.append(f"SANDBOX_SETTINGS: {path} is not an object in JSON")
            return
        for name, given in content.items():
            source = f"SANDBOX_SETTINGS: {name[:40]}"
            if name == "key":
                if isinstance(given, str):
                    self.take_key(source, given.encode("utf-8", "surrogatepass"))
                else:
                    self._wrong_key(f"{source} is not text")
            elif name in IN_FILE:
                word = str(given).lower() if isinstance(given, bool) else str(given)
                self._take(source, word, IN_FILE[name])
            else:
                known = ", ".join([*IN_FILE, "key"])
                self.problems.append(f"{source}: there is no such setting: there are {known}")

    def _content(self, source: str, path: str) -> bytes | None:
        try:
            return self.read_file(path)
        except OSError as error:
            self.problems.append(f"{source}: {path}: {error.strerror}")
        except TooLarge:
            self.problems.append(f"{source}: {path} is too large")
        return None

    def _check_key(self) -> str:
        """The ways out, where there is no key that keeps anybody out; a wrong one was told of already."""
        if self.key_is_wrong or self.values["insecure"]:
            return ""
        if not self.key_digest:
            self.problems.append("there is no API key")
        elif self.key_digest == _digest(DEFAULT_KEY):
            self.problems.append(f"the API key is the one that everybody knows: {DEFAULT_KEY}")
        else:
            return ""
        return WAYS_OUT

    def _weigh(self, text: dict[str, str]) -> None:
        """Warns of what is set in vain, and of what may surprise."""
        image, values = self.image, self.values
        as_built: Values = {
            "ENABLE_NETWORK": image["network"],
            "ENABLE_PRELOAD": values["preload"],
            "PYTHON_PATH": image["python"],
        }
        for name in DECIDED_AT_BUILD:
            given = text.get(name, "")
            same = name in as_built and as_built[name] in (given, _flag(given))
            if given and not same and name not in image["env_keep"]:
                self.warnings.append(f"{name} has no effect: config.yaml decides it, when the image is built")
        if not self.key_digest:
            self.warnings.append("there is no API key (app.insecure): whoever reaches the port may run code")
        elif self.key_digest == _digest(DEFAULT_KEY):
            self.warnings.append(f"everybody knows the API key (app.insecure): {DEFAULT_KEY}")
        if values["grace_s"] < values["timeout_s"]:
            self.warnings.append(
                f"a run may take {values['timeout_s']:g} s, but has {values['grace_s']:g} s to end "
                "when the service is stopped (GRACE)"
            )


def _digest(key: str) -> str:
    return str(sha256(key.encode("utf-8", "surrogateescape")).hexdigest())


def _told(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _whole(least: int, most: int) -> "Callable[[str], int | None]":
    def read(text: str) -> int | None:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
        return number if least <= number <= most else None

    return read


def _seconds(least: float, most: float) -> "Callable[[str], float | None]":
    def read(text: str) -> float | None:
        try:
            number = float(text) if text.isascii() and "_" not in text else -1.0
        except ValueError:
            return None
        return number if least <= number <= most else None  # NaN is not

    return read


def _flag(text: str) -> bool | None:
    return True if text in TRUE else False if text in FALSE else None


_PORT = ("port", _whole(1, 65535), "a port, 1 to 65535")
_WORKERS = ("max_workers", _whole(1, 10_000), "a number from 1 to 10000")
_REQUESTS = ("max_requests", _whole(1, 1_000_000), "a number from 1 to 1000000")
_TIMEOUT = ("timeout_s", _seconds(0.001, 86400), "a number of seconds from 0.001 to 86400")
_GRACE = ("grace_s", _seconds(0, 3600), "a number of seconds from 0 to 3600")
_DEBUG = ("debug", _flag, "true or false")

FROM_ENVIRONMENT: "dict[str, tuple[str, Any, str]]" = {
    "SANDBOX_PORT": _PORT,
    "PORT": _PORT,  # what platforms set: it has the last word
    "DEBUG": _DEBUG,
    "MAX_WORKERS": _WORKERS,
    "MAX_REQUESTS": _REQUESTS,
    "WORKER_TIMEOUT": _TIMEOUT,
    "GRACE": _GRACE,
}
"""Environment variables: the setting, how it is read (None: it cannot be), and what it must be."""

IN_FILE: "dict[str, tuple[str, Any, str]]" = {
    "max_workers": _WORKERS,
    "max_requests": _REQUESTS,
    "worker_timeout": _TIMEOUT,
    "grace": _GRACE,
    "debug": _DEBUG,
}
"""What a file named by SANDBOX_SETTINGS may say, and `key` besides."""

RELOADED = ("key_digest", "max_workers", "max_requests", "timeout_s", "grace_s", "debug")
