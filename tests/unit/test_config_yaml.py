"""Files that are not a config: each is refused in one line that says where, and what to do."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from builder.config_yaml import read_document
from builder.errors import ConfigError


def refusal(path: Path) -> tuple[str, str]:
    """The one problem of a file that cannot be read as YAML at all."""
    with pytest.raises(ConfigError) as caught:
        read_document(path)
    ((message, hint),) = caught.value.problems
    assert hint
    return message, hint


@pytest.mark.parametrize(
    ("raw", "where", "what", "hint"),
    [
        (b"a: b: c", ":1: ", "this is not YAML: mapping values are not allowed here", "indentation"),
        (b"a: 1\n b: 2", ":2: ", "this is not YAML: mapping values are not allowed here", "indentation"),
        (b"a:\n\tb: c", ":2: ", "this is not YAML: ", "not with tabs"),
        (b"a: 'x", ":1: ", "this is not YAML: ", "quote"),
        (b"a: *x", ":1: ", "this is not YAML: found undefined alias", "quote"),
        (b"a: 1\n---\nb: 1", ":2: ", "found another document", "take the --- out"),
        (b"%YAML 9.0\n---\na: 1", ":1: ", "this is not YAML: ", "indentation"),
        (b"- a\n- b", ":1: ", "the file is a list, not keys with values", "such as `base: debian:trixie`"),
        (b"\nhello", ":2: ", "the file is a single value, not keys with values", "such as"),
        (b"a: 1\nb: \xff", ":2: ", "this is not UTF-8 text", "UTF-8"),
        ("a: ä".encode("utf-16"), ":1: ", "this is not UTF-8 text", "UTF-8"),
        (b"a: 1\n\nb: \0", ":3: ", "the character U+0000 is not allowed in YAML", "take it out"),
        (b"a: \x1b[31m", ":1: ", "the character U+001B is not allowed in YAML", "take it out"),
        (b"a: " + b"[" * 5000, ":1: ", "nested too deeply", "such as"),
        (b"a: " + b"[" * 900 + b"]" * 900, ":1: ", "nested too deeply", "such as"),
        (b"\x7fELF\x02\x01\x01", ":1: ", "the character U+007F is not allowed in YAML", "take it out"),
    ],
)
def test_not_a_config(tmp_path: Path, raw: bytes, where: str, what: str, hint: str) -> None:
    """What is not UTF-8, not YAML or not one mapping is refused with its line."""
    path = tmp_path / "c.yaml"
    path.write_bytes(raw)
    message, given_hint = refusal(path)
    assert message.startswith(f"{path}{where}")
    assert what in message
    assert hint in given_hint


def test_no_file(tmp_path: Path) -> None:
    """A missing file, a directory, and a path through a file are told apart."""
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "none.yaml")[0] == f"{tmp_path}/none.yaml: there is no such file"
    message, hint = refusal(tmp_path)
    assert message == f"{tmp_path}: this is a directory"
    assert f"--config {tmp_path}/config.yaml" in hint
    assert refusal(tmp_path / "file" / "x")[0] == f"{tmp_path}/file/x: cannot be read: Not a directory"
    assert "cannot be read: " in refusal(tmp_path / ("x" * 300))[0]


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without permission says so; tried as an ordinary user, since root may read everything."""
    tmp_path.chmod(0o755)
    # Relative, so that no folder above needs to be open to the other user.
    monkeypatch.chdir(tmp_path)
    path = Path("c.yaml")
    path.touch(mode=0o000)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        message, _ = refusal(path)
    finally:
        os.seteuid(user)
    assert message == "c.yaml: cannot be read: Permission denied"


def test_large_file(tmp_path: Path) -> None:
    """More than 1 MiB is no config, and is not read to its end."""
    path = tmp_path / "c.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    started = time.monotonic()
    assert refusal(path)[0] == f"{path}: larger than 1 MiB"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1,2,3,4,5,6,7,8,9]\n"
        + "".join(
            f"{y}: &{y} [{','.join(['*' + x] * 9)}]\n" for x, y in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "a: &a [*a]\n",
        "a: &a {b: *a}\n",
        "a: [" + "1," * 100_000 + "]\n",
    ],
)
def test_alias_bomb(tmp_path: Path, text: str) -> None:
    """Aliases that multiply, aliases that hold themselves and endless lists end at a count, not in memory."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert refusal(path)[0] == f"{path}:1: more than 100000 values once each alias (*name) is written out"


def test_lines(tmp_path: Path) -> None:
    """Every key and every item of a list knows the line that it starts in."""
    path = tmp_path / "c.yaml"
    path.write_text("# one\na:\n  b: 1\n\n  c:\n    - x\n    - y\nd: {e: [1,\n  2]}\n")
    document = read_document(path)
    assert document.data == {"a": {"b": 1, "c": ["x", "y"]}, "d": {"e": [1, 2]}}
    assert document.lines == {
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "c"): 5,
        ("a", "c", 0): 6,
        ("a", "c", 1): 7,
        ("d",): 8,
        ("d", "e"): 8,
        ("d", "e", 0): 8,
        ("d", "e", 1): 9,
    }


def test_values(tmp_path: Path) -> None:
    """Scalars are read as YAML 1.1 reads them, save that a date is text."""
    path = tmp_path / "c.yaml"
    path.write_text("a: 2026-01-31\nb: yes\nc: 1_000\nd: 0x10\ne: 1.5\nf: ~\ng: '5'\nh: =\ni: !!str 5\n")
    assert read_document(path).data == {
        "a": "2026-01-31",
        "b": True,
        "c": 1000,
        "d": 16,
        "e": 1.5,
        "f": None,
        "g": "5",
        "h": "=",
        "i": "5",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2", (2, "a: this key is given twice", "line 1 has it too: keep one")),
        ("a:\n  b: 1\n  'b': 2", (3, "a.b: this key is given twice", "line 2 has it too: keep one")),
        ("1: a", (1, "1: this key is not text", "put the key in quotes")),
        ("on: a", (1, "on: this key is not text", "put the key in quotes")),
        ("? [a]\n: b", (1, "['?']: this key is not text", "put the key in quotes")),
        ("<<: {a: 1}", (1, "['<<']: merge keys are not understood", "write the keys out where they belong")),
        ("a: !foo b", (1, "a: the tag '!foo' is not understood", "write the value without a tag")),
        (
            "a: !!set {b}",
            (1, "a: the tag 'tag:yaml.org,2002:set' is not understood", "write the value without a tag"),
        ),
        (
            "a: [!!python/object/apply:os.system [id]]",
            (
                1,
                "a[0]: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not understood",
                "write the value without a tag",
            ),
        ),
        ("a: !%1b b", (1, "a: the tag '!\\x1b' is not understood", "write the value without a tag")),
        ("a: 0x_", (1, "a: '0x_' cannot be read", "write a plain number, or quote the text")),
        ("a: !!bool maybe", (1, "a: 'maybe' cannot be read", "write a plain number, or quote the text")),
        (
            f"a: 0x{'f' * 17}",
            (1, f"a: '0x{'f' * 17}' cannot be read", "write a plain number, or quote the text"),
        ),
        (
            "a: " + "9" * 5000,
            (1, "a: '" + "9" * 56 + "... cannot be read", "write a plain number, or quote the text"),
        ),
        ('a: "x\\0"', (1, "a: the text holds a NUL or half a character", "take the \\0 or \\ud... out")),
        ('a: "\\ud800"', (1, "a: the text holds a NUL or half a character", "take the \\0 or \\ud... out")),
    ],
)
def test_bad_value_does_not_hide_the_rest(tmp_path: Path, text: str, problem: tuple[int, str, str]) -> None:
    """A key or value that cannot be taken is noted with its line, and the reading goes on."""
    path = tmp_path / "c.yaml"
    path.write_text(f"{text}\nlast: 1\n")
    document = read_document(path)
    assert document.problems == [problem]
    assert document.data["last"] == 1
