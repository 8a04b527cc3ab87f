"""The fields of a request: out of JSON, of a form, of a query. Pure.

What can be read in two ways is not read at all: a name that stands there twice, text that is not UTF-8, a
number that JSON does not know. Each is a Mistake, which says what is wrong.
"""

from _json import make_scanner  # `json` would import `re`: 11 ms
from binascii import a2b_hex

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

JSON, FORM, PARTS = "application/json", "application/x-www-form-urlencoded", "multipart/form-data"
MAX_FIELDS = 100
MAX_ESCAPES = 1 << 18
"""Of one field of a form: each costs a moment of the one thread that serves all."""
WHITESPACE = " \t\r\n"


class Mistake(Exception):
    """The request is wrong: str() says how, for the one who sent it."""

    def __init__(self, message: str, status: int = 200) -> None:
        """`status` is HTTP's: 200 where dify-sandbox has it so, for a field that is missing or malformed."""
        super().__init__(message)
        self.status = status


def read_fields(content_type: str, query: str, body: bytes) -> "dict[str, Any]":
    """The fields of a request, by name; Mistake where they cannot be read. A form's are text, all of them.

    The query counts where the body is not JSON.
    """
    kind, _, parameters = content_type.partition(";")
    kind = kind.strip(" \t").lower()
    if not kind and body.lstrip()[:1] == b"{":
        kind = JSON
    if kind == JSON:
        _check_charset(parameters)
        return read_json(body)
    fields = read_form(query.encode("latin-1"), "the query")
    if not body:
        return fields
    if kind == FORM or not kind:
        _check_charset(parameters)
        return _joined(fields, read_form(body, "the form"))
    if kind == PARTS:
        return _joined(fields, read_parts(parameters, body))
    raise Mistake(f"Content-Type is {kind[:80]}: send {JSON}, {FORM} or {PARTS}", 415)


# JSON


class _Grammar:
    """What json.JSONDecoder tells its C scanner; ours has no NaN, and no name twice."""

    strict = True
    object_hook = None
    parse_float = float
    parse_int = int
    memo = None

    @staticmethod
    def parse_constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    @staticmethod
    def object_pairs_hook(pairs: "list[tuple[str, Any]]") -> "dict[str, Any]":
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for at, name in enumerate(names) if name in names[:at])
            raise ValueError(f"{twice[:80]!a} stands there twice in one object")
        return found


_scan = make_scanner(_Grammar)  # type: ignore[arg-type]  # any object with these


def read_json(text: bytes) -> "dict[str, Any]":
    """The object that `text` is; Mistake where it is not JSON, or no object."""
    value = read_value(text)
    if not isinstance(value, dict):
        raise Mistake("the body is JSON, but no object")
    return value


def read_value(text: bytes) -> "Any":
    """What `text` is in JSON; Mistake where it is nothing."""
    try:
        decoded = text.decode()
        start = len(decoded) - len(decoded.lstrip(WHITESPACE))
        value, end = _scan(decoded, start)
    except StopIteration:
        raise Mistake("the body is not JSON: there is no value") from None
    except UnicodeDecodeError as error:
        raise Mistake(f"the body is not UTF-8: byte {error.start}") from None
    except RecursionError:
        raise Mistake("the body is not JSON that anybody needs: it is nested too deep") from None
    except ValueError as error:
        raise Mistake(f"the body is not JSON: {error}") from None
    if decoded[end:].strip(WHITESPACE):
        raise Mistake(f"the body is not JSON: there is more behind its end, character {end}")
    return value


# Forms


def read_form(text: bytes, where: str) -> "dict[str, str]":
    """name=value&... as browsers send it: `+` is a space, %XX a byte of UTF-8."""
    fields: dict[str, str] = {}
    if text.count(b"&") >= MAX_FIELDS:
        raise Mistake(f"{where} has more than {MAX_FIELDS} fields")
    for field in text.split(b"&"):
        if field:
            name, _, value = field.partition(b"=")
            _add(fields, _text(_unescaped(name, where), where), _text(_unescaped(value, where), where))
    return fields


def _unescaped(text: bytes, where: str) -> bytes:
    text = text.replace(b"+", b" ")
    if b"%" not in text:
        return text
    if text.count(b"%") > MAX_ESCAPES:
        raise Mistake(f"{where} has a field with more than {MAX_ESCAPES} escapes: send JSON")
    first, *rest = text.split(b"%")
    parts = [first]
    try:
        for part in rest:
            parts += a2b_hex(part[:2]), part[2:]
            if len(part) < 2:
                raise ValueError
    except ValueError:
        raise Mistake(f"{where} has a % without two hexadecimal digits behind it") from None
    return b"".join(parts)


def read_parts(parameters: str, body: bytes) -> "dict[str, str]":
    """multipart/form-data, RFC 7578: as `curl --form` sends it."""
    boundary = parameter(parameters, "boundary").encode("latin-1")
    if not 1 <= len(boundary) <= 70:  # RFC 2046, 5.1.1
        raise Mistake(f"Content-Type has no boundary: {PARTS} needs one")
    delimiter = b"\r\n--" + boundary
    whole = b"\r\n" + body
    if whole.count(delimiter) > MAX_FIELDS:
        raise Mistake(f"the form has more than {MAX_FIELDS} fields")
    _, *parts = whole.split(delimiter)
    if not parts or not parts[-1].startswith(b"--"):
        raise Mistake("the form is not whole: its last boundary is missing")
    fields: dict[str, str] = {}
    for part in parts[:-1]:
        head, end, content = part.partition(b"\r\n\r\n")
        name = ""
        for line in head.split(b"\r\n"):
            key, _, value = line.decode("utf-8", "replace").partition(":")
            if key.strip().lower() == "content-disposition":
                name = parameter(value.partition(";")[2], "name")
        if not end or not name:
            raise Mistake("the form has a part without a name")
        _add(fields, name, _text(content, "the form"))
    return fields


def parameter(text: str, name: str) -> str:
    """The parameter `name` in `a=b; c="d"`; empty where it is not there."""
    for one in text.split(";"):
        key, _, value = one.partition("=")
        if key.strip(" \t").lower() == name:
            value = value.strip(" \t")
            return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    return ""


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Mistake(f"{where} is not UTF-8") from None


def _add(fields: "dict[str, str]", name: str, value: str) -> None:
    if name in fields:
        raise Mistake(f"{name[:80]}: stands there twice")
    fields[name] = value


def _joined(fields: "dict[str, str]", more: "dict[str, str]") -> "dict[str, str]":
    for name, value in more.items():
        _add(fields, name, value)
    return fields


def _check_charset(parameters: str) -> None:
    if parameters:
        charset = parameter(parameters, "charset").lower()
        if charset not in ("", "utf-8", "utf8", "us-ascii"):
            raise Mistake(f"the body's charset is {charset[:80]}: send UTF-8", 415)
