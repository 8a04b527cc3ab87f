"""One YAML file as plain data with the line of everything in it, or all that is wrong with it as YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from builder.config_values import shown
from builder.errors import ConfigError

Location = tuple[str | int, ...]
"""Where a value stands: ("syscalls", "allow", 2)."""

UNREAD = object()
"""Stands in the data for a value that is among the document's problems already."""

_SIZE_LIMIT = 1 << 20
_VALUES_LIMIT = 100_000
_PREFIX = "tag:yaml.org,2002:"
# A date is text to us: image.tag: 2026-01-31 is a good tag.
_TEXT_TAGS = {f"{_PREFIX}{name}" for name in ("str", "timestamp", "value")}
_SCALAR_TAGS = {f"{_PREFIX}{name}" for name in ("int", "float", "bool", "null")}


@dataclass
class Document:
    """What a YAML file holds: data, the line of each value, and (line, message, hint) of each problem."""

    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[tuple[int, str, str]] = field(default_factory=list)


def dotted(location: Location) -> str:
    """`location` as a person writes it: syscalls.allow[2]."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.replace("_", "").replace("-", "").replace(".", "").isalnum():
            text += f".{part}" if text else part
        else:
            text += f"[{shown(part)}]"
    return text


_EXAMPLE = "write keys with values, such as `base: debian:trixie`; an empty file is the default sandbox"


def read_document(path: Path, example: str = _EXAMPLE) -> Document:
    """The YAML file at `path`; ConfigError when there is none or it cannot be read as one mapping.

    `example` is the hint for a file that is YAML, and no mapping.
    """
    text = _read_text(path)
    try:
        root = yaml.SafeLoader(text).get_single_node()
        if root is None or root.tag == f"{_PREFIX}null":
            return Document()
        line = root.start_mark.line + 1
        if not isinstance(root, yaml.MappingNode):
            kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
            raise _error(path, line, f"the file is {kind}, not keys with values", example)
        if _count(root, {}) > _VALUES_LIMIT:
            what = f"more than {_VALUES_LIMIT} values once each alias (*name) is written out"
            raise _error(path, line, what, "write the few values that are needed, without aliases")
        document = Document()
        document.data = _mapping(root, (), document)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character U+{error.character:04X} is not allowed in YAML"
        raise _error(path, line, what, "take it out") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        hint = "look at the indentation, and quote text that has one of : # * & in it"
        if "'\\t'" in what:
            hint = "indent with spaces, not with tabs"
        elif "another document" in what:
            hint = "keep one document: take the --- out"
        raise _error(path, mark.line + 1 if mark else 1, f"this is not YAML: {what}", hint) from None
    except RecursionError:
        raise _error(path, 1, "lists or mappings are nested too deeply", example) from None
    return document


def _error(path: Path, line: int, what: str, hint: str) -> ConfigError:
    return ConfigError([(f"{path}:{line}: {what}", hint)])


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_SIZE_LIMIT + 1)
    except FileNotFoundError:
        hint = "name one with --config PATH; an empty file is the default sandbox"
        raise ConfigError([(f"{path}: there is no such file", hint)]) from None
    except IsADirectoryError:
        hint = f"name the file in it, such as --config {path / 'config.yaml'}"
        raise ConfigError([(f"{path}: this is a directory", hint)]) from None
    except OSError as error:
        hint = "name a file that you may read with --config PATH"
        raise ConfigError([(f"{path}: cannot be read: {error.strerror}", hint)]) from None
    if len(raw) > _SIZE_LIMIT:
        raise ConfigError([(f"{path}: larger than 1 MiB", "is this the file that you mean?")])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _error(path, line, "this is not UTF-8 text", "save the file as UTF-8") from None


def _count(node: yaml.Node, seen: dict[int, int]) -> int:
    """How many values `node` holds with every alias written out, in time linear in the file."""
    if id(node) not in seen:
        # Met again before it is counted: it holds itself and is infinite.
        seen[id(node)] = _VALUES_LIMIT + 1
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        seen[id(node)] = 1 + sum(_count(child, seen) for child in children)
    return seen[id(node)]


def _plain(node: yaml.Node, location: Location, document: Document) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_PREFIX}map":
        return _mapping(node, location, document)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_PREFIX}seq":
        items = []
        for index, item in enumerate(node.value):
            document.lines[*location, index] = item.start_mark.line + 1
            items.append(_plain(item, (*location, index), document))
        return items
    if isinstance(node, yaml.ScalarNode) and node.tag in _TEXT_TAGS:
        if all(character != "\0" and not 0xD800 <= ord(character) < 0xE000 for character in node.value):
            return node.value
        what, hint = "the text holds a NUL or half a character", "take the \\0 or \\ud... out"
    elif isinstance(node, yaml.ScalarNode) and node.tag in _SCALAR_TAGS:
        try:
            value = yaml.constructor.SafeConstructor().construct_object(node)
            if not isinstance(value, int) or abs(value) < 1 << 63:
                return value
        except (ValueError, KeyError):  # `!!int text`, `0x_`, more digits than int() takes
            pass
        what, hint = f"{shown(node.value)} cannot be read", "write a plain number, or quote the text"
    else:
        what, hint = f"the tag {shown(node.tag)} is not understood", "write the value without a tag"
    document.problems.append((node.start_mark.line + 1, f"{dotted(location)}: {what}", hint))
    return UNREAD


def _mapping(node: yaml.MappingNode, location: Location, document: Document) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value
        here = (*location, key if isinstance(key, str) else "?")
        if key_node.tag == f"{_PREFIX}merge":
            what, hint = "merge keys are not understood", "write the keys out where they belong"
        elif key_node.tag not in _TEXT_TAGS:
            what, hint = "this key is not text", "put the key in quotes"
        elif key in result:
            what, hint = "this key is given twice", f"line {document.lines[here]} has it too: keep one"
        else:
            document.lines[here] = line
            result[key] = _plain(value_node, here, document)
            continue
        document.problems.append((line, f"{dotted(here)}: {what}", hint))
    return result
