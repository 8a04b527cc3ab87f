"""Why two files are not the same, in a line: pure, and of files that need not be ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import compress, count, islice, zip_longest
from operator import ne
from typing import Any

from builder.errors import printable

_MOST_KEYS = 5
_SHOWN_CHARS = 60
_MOST_DEPTH = 50
_MOST_CHANGES = 1000

_PYC_HEADER_BYTES = 16
"""Of a .pyc: magic number, flags, and eight bytes that say what its source was (PEP 552)."""

_ABSENT = object()
"""In place of a value that one of two documents does not have: null is a value."""


def why(path: str, before: bytes, after: bytes) -> str:
    """What differs between the two contents of the file at `path`."""
    if path.endswith(".pyc") and min(len(before), len(after)) >= _PYC_HEADER_BYTES:
        return _of_bytecode(before, after)
    texts = [_text(content) for content in (before, after)]
    if texts[0] is None or texts[1] is None:
        return _of_bytes(before, after)
    if path.endswith(".json"):
        with suppress(ValueError, RecursionError):  # no JSON after all, or nested deeper than Python reads
            return _of_documents(json.loads(before), json.loads(after))
    return _of_lines(texts[0], texts[1])


def changed_keys(before: object, after: object) -> list[tuple[str, str | None, str | None]]:
    """(key, value before, value after) of what two JSON documents do not share; None: it is not there.

    A key is written as `config.Labels.title` and `layers[2].size`. Long values are cut to where they differ.
    The first _MOST_CHANGES of them. RecursionError for documents that are nested too deep.
    """
    changes = islice(_changes(before, after, "", 0), _MOST_CHANGES)
    return [(key, *shown(_json(one), _json(other))) for key, one, other in changes]


def shown(before: str | None, after: str | None) -> tuple[str | None, str | None]:
    """Both texts, each in one line, cut to what surrounds the first difference."""
    common = _common(before or "", after or "")
    start = max(0, common - _SHOWN_CHARS // 3) if before is not None and after is not None else 0
    return _cut(before, start), _cut(after, start)


def _common(before: Sequence[Any], after: Sequence[Any]) -> int:
    """How long the beginning is that both share."""
    return next(compress(count(), map(ne, before, after)), min(len(before), len(after)))


def _cut(text: str | None, start: int) -> str | None:
    if text is None:
        return None
    if len(text) <= _SHOWN_CHARS:
        return printable(text)
    piece = text[start : start + _SHOWN_CHARS]
    return f"{'…' if start else ''}{printable(piece)}{'…' if start + _SHOWN_CHARS < len(text) else ''}"


def _of_bytecode(before: bytes, after: bytes) -> str:
    """Of the header and the code. Nothing is unmarshalled: the interpreter trusts what it reads so."""
    if before[:4] != after[:4]:
        return "compiled by another version of Python"
    if before[4:8] != after[4:8]:
        return "compiled with other flags: whether a source is checked, and by its hash or its date"
    by_hash = before[4] & 1
    same_source = before[8:16] == after[8:16]
    same_code = before[16:] == after[16:]
    source = f"{'hash' if by_hash else 'date or size'} of the source"
    if same_code:
        return f"the {source} differs, the code is the same"
    position = _common(before[16:], after[16:])
    if same_source:
        return f"the code differs, from its byte {position} on; the {source} is the same"
    return f"the {source} differs, and so does the code, from its byte {position} on"


def _of_documents(before: object, after: object) -> str:
    changes = changed_keys(before, after)
    if not changes:
        return "the same JSON, written in another way"
    texts = [
        " ".join((f"{key}:" if key else "", one or "nothing", "->", other or "nothing")).strip()
        for key, one, other in changes[:_MOST_KEYS]
    ]
    more = ["and more keys"] if len(changes) > _MOST_KEYS else []
    return "; ".join([*texts, *more])


def _of_lines(before: str, after: str) -> str:
    lines = zip_longest(before.split("\n"), after.split("\n"))
    for number, (one, other) in enumerate(lines, 1):
        if one != other:
            left, right = shown(one, other)
            return f"line {number}: {_quoted(left)} -> {_quoted(right)}"
    raise AssertionError("the contents are the same")


def _quoted(line: str | None) -> str:
    return "no such line" if line is None else f'"{line}"'


def _of_bytes(before: bytes, after: bytes) -> str:
    return f"from byte {_common(before, after)} on"


def _text(content: bytes) -> str | None:
    """The content as text; None where it is none."""
    try:
        return None if b"\0" in content else content.decode()
    except UnicodeDecodeError:
        return None


def _json(value: object) -> str | None:
    return None if value is _ABSENT else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _changes(before: Any, after: Any, key: str, depth: int) -> Iterator[tuple[str, object, object]]:
    if depth < _MOST_DEPTH and isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}):
            one, other = before.get(name, _ABSENT), after.get(name, _ABSENT)
            yield from _changes(one, other, f"{key}.{name}" if key else name, depth + 1)
    elif depth < _MOST_DEPTH and isinstance(before, list) and isinstance(after, list):
        yield from _list_changes(before, after, key, depth)
    elif before is _ABSENT or after is _ABSENT or _json(before) != _json(after):
        yield key, before, after


def _list_changes(
    before: Sequence[Any], after: Sequence[Any], key: str, depth: int
) -> Iterator[tuple[str, object, object]]:
    for index, (one, other) in enumerate(zip_longest(before, after, fillvalue=_ABSENT)):
        yield from _changes(one, other, f"{key}[{index}]", depth + 1)
