"""The fields of a request to run code, checked: a Job, or a Mistake that says which field is wrong. Pure."""

from binascii import a2b_base64

from runtime.body import Mistake, read_value
from runtime.run import Job

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

    from runtime.settings import Settings

LIMITS = {
    "memory": ("memory_bytes", 16 << 20),
    "cpu_s": ("cpu_s", 1),
    "file_size": ("file_size_bytes", 0),
    "processes": ("processes", 1),
    "open_files": ("open_files", 16),
    "output": ("output_bytes", 0),
    "scratch": ("scratch_bytes", 0),
}
"""By their names in config.yaml: the name in runtime.json, and the least that a run can start with."""
TRUE, FALSE = ("1", "t", "true"), ("", "0", "f", "false")

MAX_FILES = 1000
MAX_OUTPUTS = 100
MAX_PATH_BYTES, MAX_NAME_BYTES, MAX_DEPTH = 1024, 255, 32
MAX_VALUE_BYTES = 128 * 1024


def check_language(fields: "dict[str, Any]") -> None:
    """Mistake where `language` is not one that is run here."""
    language = _text(fields, "language", required=True)
    if language == "nodejs":
        raise Mistake("language: nodejs is not run here: this sandbox has Python alone, python3", 400)
    if language != "python3":
        raise Mistake(f"language: {language[:80]!a} is not known: send python3", 400)


def read_job(fields: "dict[str, Any]", settings: "Settings") -> Job:
    """What `fields` ask for; Mistake where that is not to be had. Unknown fields are passed over."""
    code = _bytes(_text(fields, "code", required=True), "code")
    check_language(fields)
    preload = _text(fields, "preload")
    _check_network(fields, settings.image["network"])
    return Job(
        code,
        preload=_bytes(preload, "preload") if settings.preload else b"",
        stdin=_bytes(_text(fields, "stdin"), "stdin"),
        files=_files(_object(fields, "files")),
        outputs=_outputs(fields),
        env=_env(_object(fields, "env"), settings.env_allow),
        timeout_s=_timeout(fields, settings.timeout_s),
        limits=_limits(_object(fields, "limits"), settings.image["limits"]),
        fresh=_flag(fields, "fresh") or False,
    )


def _check_network(fields: "dict[str, Any]", network: bool) -> None:
    """dify asks for the network with every request, needed or not: where there is none, code gets none."""
    if _flag(fields, "enable_network") is False and network:
        raise Mistake(
            "enable_network: runs of this image have the network: leave the field out, or build an image "
            "with enable_network: false"
        )


def _text(fields: "dict[str, Any]", name: str, required: bool = False) -> str:
    value = fields.get(name)
    if value is None:
        value = ""
    if not isinstance(value, str):
        raise Mistake(f"{name}: is to be text")
    if required and not value:
        raise Mistake(f"{name}: is missing")
    return value


def _bytes(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Mistake(f"{name}: has half of a surrogate pair, which is no text") from None


def _flag(fields: "dict[str, Any]", name: str) -> "bool | None":
    value = fields.get(name)
    if isinstance(value, str):  # a form's
        word = value.lower()
        if word in TRUE or word in FALSE:
            return word in TRUE
    if value is None or isinstance(value, bool):
        return value
    raise Mistake(f"{name}: is to be true or false")


def _structure(fields: "dict[str, Any]", name: str) -> "Any":
    """The field's object or list; None where there is none."""
    value = fields.get(name)
    if not isinstance(value, str):
        return value
    try:  # a form's
        return read_value(value.encode("utf-8", "surrogatepass")) if value else None
    except Mistake:
        raise Mistake(f"{name}: is to be JSON, in a form") from None


def _object(fields: "dict[str, Any]", name: str) -> "dict[str, Any]":
    value = _structure(fields, name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Mistake(f"{name}: is to be an object")
    return value


def _number(value: "Any", name: str) -> "int | float":
    if isinstance(value, str):  # a form's
        try:
            value = int(value) if value.isdecimal() else float(value)
        except ValueError:
            raise Mistake(f"{name}: is to be a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Mistake(f"{name}: is to be a number")
    return value


def _timeout(fields: "dict[str, Any]", most_s: float) -> "float | None":
    if fields.get("timeout_s") in (None, ""):
        return None
    value = _number(fields["timeout_s"], "timeout_s")
    if not 0 < value <= most_s:  # NaN is neither
        raise Mistake(f"timeout_s: is to be more than 0 and at most {most_s:g}")
    return float(value)


def _limits(asked: "dict[str, Any]", most: "dict[str, int]") -> "dict[str, int]":
    limits = {}
    for name, value in asked.items():
        if name not in LIMITS:
            raise Mistake(f"limits.{name[:80]}: is not known: there are {', '.join(LIMITS)}")
        key, least = LIMITS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most[key]:
            raise Mistake(f"limits.{name}: is to be a whole number from {least} to {most[key]}")
        limits[key] = value
    return limits


def _env(asked: "dict[str, Any]", allowed: "list[str]") -> "dict[str, str]":
    for name, value in asked.items():
        if name not in allowed:
            raise Mistake(
                f"env.{name[:80]}: may not be set: config.yaml names those that may: jail.env_allow"
            )
        if not isinstance(value, str) or "\0" in value:
            raise Mistake(f"env.{name}: is to be text without NUL")
        if len(_bytes(value, f"env.{name}")) > MAX_VALUE_BYTES:
            raise Mistake(f"env.{name}: is longer than {MAX_VALUE_BYTES} bytes")
    return asked


def _files(asked: "dict[str, Any]") -> "dict[str, bytes]":
    if len(asked) > MAX_FILES:
        raise Mistake(f"files: more than {MAX_FILES}")
    files: dict[str, bytes] = {}
    folders: set[str] = set()
    for path, content in asked.items():
        _check_path(path, "files")
        at = path.rfind("/")
        while at > 0 and path[:at] not in folders:
            folders.add(path[:at])
            at = path.rfind("/", 0, at)
        try:
            files[path] = a2b_base64(content, strict_mode=True)
        except (TypeError, ValueError):
            raise Mistake(f"files.{path[:80]}: is to be text in Base64, without line ends") from None
    for path in files:
        if path in folders:
            raise Mistake(f"files.{path[:80]}: is the folder of another one")
    return files


def _outputs(fields: "dict[str, Any]") -> "list[str]":
    asked = _structure(fields, "outputs")
    if asked is None:
        return []
    if not isinstance(asked, list) or len(asked) > MAX_OUTPUTS:
        raise Mistake(f"outputs: is to be a list of at most {MAX_OUTPUTS} paths")
    for path in asked:
        _check_path(path, "outputs")
    if len(set(asked)) < len(asked):
        raise Mistake("outputs: a path stands there twice")
    return asked


def _check_path(path: "Any", field: str) -> None:
    """Mistake where `path` may lead out of the run's private folder, or cannot be a path."""
    if not isinstance(path, str):
        raise Mistake(f"{field}: a path is to be text")
    names = path.split("/")
    good = "\0" not in path and len(_bytes(path, field)) <= MAX_PATH_BYTES and len(names) <= MAX_DEPTH
    if not good or not all(_is_name(name) for name in names):
        raise Mistake(
            f"{field}: {path[:80]!a} is no path relative to the run's folder, without . and .., of at most "
            f"{MAX_DEPTH} names and {MAX_PATH_BYTES} bytes"
        )


def _is_name(name: str) -> bool:
    return name not in ("", ".", "..") and len(name.encode()) <= MAX_NAME_BYTES
