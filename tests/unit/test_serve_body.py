"""Bodies of requests: fields out of JSON, of a form, of a query."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from runtime.answer import failure
from runtime.body import FORM, JSON, MAX_ESCAPES, MAX_FIELDS, PARTS, Mistake, read_fields


@pytest.mark.parametrize("kind", ["", JSON, "Application/JSON", "application/json; charset=UTF-8"])
def test_json(kind: str) -> None:
    """White space around it is JSON's own; without a Content-Type an object is JSON."""
    assert read_fields(kind, "q=1", b' \r\n\t{"a": "\\u00e4\\ud83d\\ude00", "b": [1.5, null]}\n') == {
        "a": "ä😀",
        "b": [1.5, None],
    }


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b" ", b"{", b"}", b"nul", b"1", b"[]", b'"a"', b"null", b"{}{}", b"{} x", b"{}\x00", b"{},"),
        *(b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 01}', b'{"a": 1.}', b"{'a': 1}"),
        *(b'{"a": 1, "a": 1}', b'{"x": [{"a": 1, "a": 2}]}', b'{"a": "\n"}', b'{"a": "\\x"}', b'{"a": "b}'),
        *(b'{"a": "\xff"}', b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'.encode("utf-16"), b"\xc2\xa0{}", b'{"a":1,}'),
        *(
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"a": ' + b"9" * 5000 + b"}",
            b'{"\\ud800": 1, "\\ud800": 2}',
        ),
    ],
)
def test_what_is_not_json(text: bytes) -> None:
    """Or could be read in two ways: a Mistake that can be told, and nothing worse."""
    with pytest.raises(Mistake) as wrong:
        read_fields(JSON, "", text)
    assert wrong.value.status == 200
    assert json.loads(failure(-400, str(wrong.value)))["message"].startswith("the body is")


def test_numbers_beyond_a_double() -> None:
    """1e999 is JSON; what it means is the field's to refuse."""
    assert read_fields(JSON, "", b'{"a": 1e999}') == {"a": float("inf")}


def test_forms() -> None:
    """As browsers send them, the query included; everything is text."""
    code = "print('a b+c%&=;ä中')\r\n"
    body = urlencode({"language": "python3", "code": code}).encode()
    assert read_fields(FORM, "fresh=true&&x", body) == {
        "fresh": "true",
        "x": "",
        "language": "python3",
        "code": code,
    }
    assert read_fields("", "a=b=c", b"") == {"a": "b=c"}
    assert read_fields("", "", b"a=%C3%a4") == {"a": "ä"}


@pytest.mark.parametrize(
    ("query", "body"),
    [
        *(
            ("", text)
            for text in (b"a=%", b"a=%4", b"a=%zz", b"a=%%41", b"a=%ff", b"a=\xff", b"%f=1", b"a=% 1")
        ),
        *(("", text) for text in (b"a=1&a=1", b"a&a", b"&" * MAX_FIELDS, b"a=" + b"%41" * (MAX_ESCAPES + 1))),
        *((text, b"") for text in ("a=%ff", "a=1&a=2")),
        ("a=1", b"a=2"),
    ],
)
def test_forms_that_are_wrong(query: str, body: bytes) -> None:
    """Escapes that are none, what is not UTF-8, names that come twice, more than is good."""
    with pytest.raises(Mistake):
        read_fields(FORM, query, body)


def part(name: str, content: bytes, more: str = "") -> bytes:
    return f'--B\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


def test_forms_in_parts() -> None:
    """As curl --form sends them, a file included; a boundary within a line is none."""
    code = b"print('--B')\r\n\r\n--Bx".replace(b"\r\n--B", b"\r\n --B")
    body = (
        part("language", b"python3")
        + part("code", code, '; filename="a.py"\r\nContent-Type: text/x')
        + b"--B--"
    )
    for boundary in ("B", '"B"'):
        fields = read_fields(f"{PARTS}; charset=utf-8; boundary={boundary}", "fresh=1", body + b"\r\n")
        assert fields == {"fresh": "1", "language": "python3", "code": code.decode()}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (PARTS, part("a", b"1") + b"--B--"),
        (f"{PARTS}; boundary=", part("a", b"1") + b"--B--"),
        (f"{PARTS}; boundary={'B' * 71}", part("a", b"1") + b"--B--"),
        (f"{PARTS}; boundary=C", part("a", b"1") + b"--B--"),
        (f"{PARTS}; boundary=B", part("a", b"1")),
        (f"{PARTS}; boundary=B", part("a", b"1") + part("a", b"2") + b"--B--"),
        (f"{PARTS}; boundary=B", part("", b"1") + b"--B--"),
        (f"{PARTS}; boundary=B", b"--B\r\n\r\n1\r\n--B--"),
        (f"{PARTS}; boundary=B", part("a", b"\xff") + b"--B--"),
        (f"{PARTS}; boundary=B", b"".join(part(str(at), b"") for at in range(MAX_FIELDS + 1)) + b"--B--"),
    ],
)
def test_parts_that_are_wrong(kind: str, body: bytes) -> None:
    """No boundary, no end, no name, one name twice, no text, too many."""
    with pytest.raises(Mistake) as wrong:
        read_fields(kind, "", body)
    assert wrong.value.status == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "application/json; charset=utf-16", "json"]
)
def test_other_kinds_of_bodies(kind: str) -> None:
    """415: what we cannot read is not guessed at."""
    with pytest.raises(Mistake) as wrong:
        read_fields(kind, "", b"{}")
    assert wrong.value.status == 415
