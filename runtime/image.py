"""The image's own files beside the runtime, and the plain JSON that two of them are."""

import posix
from _json import encode_basestring_ascii, make_encoder, make_scanner  # `json` would import `re`: 11 ms

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SANDBOX = "/sandbox"
MAX_BYTES = 16 * 1024 * 1024


class TooLarge(Exception):
    """There is more to read than MAX_BYTES."""


class JsonSettings:
    """What json.JSONDecoder tells its C scanner: plain JSON, nothing special."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = None
    memo = None


def parse_json(text: bytes) -> "Any":
    """The value that `text` is; ValueError where it is not JSON."""
    decoded = text.decode()
    try:
        value, end = make_scanner(JsonSettings)(decoded, 0)  # type: ignore[arg-type]  # any object with these
    except StopIteration:
        raise ValueError("not JSON") from None
    if decoded[end:].strip():
        raise ValueError("not JSON")
    return value


def json_encoder(quote: "Callable[[str], str]") -> "Callable[[Any], bytes]":
    """What writes JSON, and text as `quote` has it: TypeError for what has no form, ValueError for NaN."""
    # What json.JSONEncoder gives its C half: markers (against cycles, of which there are none), default,
    # encoder, indent, separators, sort_keys, skipkeys, allow_nan.
    encode: Any = make_encoder(None, _no_json, quote, None, ":", ",", False, False, False)
    return lambda value: "".join(encode(value, 0)).encode()


def _no_json(value: object) -> "Any":
    raise TypeError(f"{type(value).__name__} has no form in JSON")


to_json = json_encoder(encode_basestring_ascii)
"""JSON in ASCII."""


def read_file(path: str) -> bytes:
    """The bytes of the file at `path`."""
    source = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return read_all(source)
    finally:
        posix.close(source)


def read_all(source: int) -> bytes:
    """Everything that descriptor `source` gives; TooLarge where that is more than MAX_BYTES."""
    parts, size = [], 0
    while part := posix.read(source, 1 << 16):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise TooLarge
    return b"".join(parts)


def write_all(target: int, data: bytes) -> None:
    """Writes the whole of `data` to descriptor `target`."""
    while data:
        data = data[posix.write(target, data) :]
