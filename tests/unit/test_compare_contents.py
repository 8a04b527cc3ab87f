"""Why two files differ, in a line."""

from __future__ import annotations

import json

import pytest

from builder.compare.contents import changed_keys, shown, why


def pyc(
    source: bytes = b"S" * 8, code: bytes = b"code", magic: bytes = b"\xf3\r\r\n", flags: int = 1
) -> bytes:
    return magic + flags.to_bytes(4, "little") + source + code


@pytest.mark.parametrize(
    ("path", "before", "after", "reason"),
    [
        ("a.pyc", pyc(), pyc(b"T" * 8), "the hash of the source differs, the code is the same"),
        (
            "a.pyc",
            pyc(),
            pyc(code=b"cOde"),
            "the code differs, from its byte 1 on; the hash of the source is the same",
        ),
        (
            "a.pyc",
            pyc(),
            pyc(b"T" * 8, b"co"),
            "the hash of the source differs, and so does the code, from its byte 2 on",
        ),
        (
            "a.pyc",
            pyc(flags=0),
            pyc(b"T" * 8, flags=0),
            "the date or size of the source differs, the code is the same",
        ),
        ("a.pyc", pyc(), pyc(magic=b"\xcb\r\r\n"), "compiled by another version of Python"),
        (
            "a.pyc",
            pyc(),
            pyc(flags=3),
            "compiled with other flags: whether a source is checked, and by its hash or its date",
        ),
        ("a.pyc", b"short\0", b"shorter\0", "from byte 5 on"),
        ("r.json", b'{"a": {"b": [1, 2]}}', b'{"a": {"b": [1, 3]}}', "a.b[1]: 2 -> 3"),
        ("r.json", b'{"a": null}', b"{}", "a: null -> nothing"),
        ("r.json", b"[1]", b'"x"', '[1] -> "x"'),
        ("r.json", b'{"a": 1}', b'{"a":1}', "the same JSON, written in another way"),
        ("r.json", b'{"a": 1', b'{"a": 2', 'line 1: "{"a": 1" -> "{"a": 2"'),
        ("r.json", b"[" * 100_000, b"[" * 100_001, f'line 1: "…{"[" * 20}" -> "…{"[" * 21}"'),
        ("motd", b"a\nb\nc\n", b"a\nX\nc\n", 'line 2: "b" -> "X"'),
        ("motd", b"a\n", b"a\nb\n", 'line 2: "" -> "b"'),
        ("motd", b"a", b"a\nb", 'line 2: no such line -> "b"'),
        ("motd", b"\x1b[2J", b"x", 'line 1: "\\x1b[2J" -> "x"'),
        ("lib.so", b"\x7fELF\0abc", b"\x7fELF\0abd", "from byte 7 on"),
        ("latin", b"\xe9", b"\xe8", "from byte 0 on"),
    ],
)
def test_why(path: str, before: bytes, after: bytes, reason: str) -> None:
    assert why(path, before, after) == reason


def test_many_keys() -> None:
    """Of a document that is another one altogether a few keys are told."""
    before, after = ({str(number): value for number in range(100)} for value in (1, 2))
    told = why("x.json", json.dumps(before).encode(), json.dumps(after).encode())
    assert told.endswith("; and more keys")
    assert told.count("1 -> 2") == 5
    assert len(changed_keys([1] * 5000, [2] * 5000)) == 1000


def test_long_texts_are_cut_to_where_they_differ() -> None:
    one, other = shown("x" * 500 + "A" + "y" * 500, "x" * 500 + "B" + "y" * 500)
    assert one == "…" + "x" * 20 + "A" + "y" * 39 + "…"
    assert other == "…" + "x" * 20 + "B" + "y" * 39 + "…"
