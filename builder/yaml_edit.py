"""Edits YAML as text: what is added is added in place, and every other byte stays as it is.

The places are PyYAML's marks of the nodes: a round trip through a YAML library, ruamel.yaml included, lays
out anew what it does not change. The result may be wrong for a form of YAML that is not thought of here:
compare its data with what it should be.
"""

from __future__ import annotations

import yaml

from builder.config_yaml import Location


class CannotEdit(Exception):
    """Why an edit was not tried."""


def append(text: str, location: Location, item: str) -> str:
    """`text` with one more item in the list at `location`, which is made where there is none."""
    node = _find(text, location)
    if not isinstance(node, yaml.SequenceNode):
        return put(text, location, f"[{item}]")
    if node.flow_style:
        return _insert_in_flow(text, node, item)
    dash = text.rindex("-", 0, node.value[0].start_mark.index)
    return _insert_line(text, _end(node, text), _column(text, dash), f"- {item}")


def put(text: str, location: Location, value: str) -> str:
    """`text` with `value`, a line of YAML, at `location`, where there is nothing or a scalar."""
    *outer, key = location
    mapping = _find(text, tuple(outer))
    if not isinstance(mapping, yaml.MappingNode):
        if outer:
            return put(text, tuple(outer), f"{{{key}: {value}}}")
        newline = _newline(text)
        gap = newline if text and not text.endswith("\n") else ""
        return f"{text}{gap}{key}: {value}{newline}"
    for name, node in mapping.value:
        if name.value != key:
            continue
        if _is_absent(node):
            colon = text.index(":", name.end_mark.index) + 1
            return f"{text[:colon]} {value}{text[colon:]}"
        return text[: node.start_mark.index] + value + text[node.end_mark.index :]
    if mapping.flow_style:
        return _insert_in_flow(text, mapping, f"{key}: {value}")
    indent = mapping.value[0][0].start_mark.column
    return _insert_line(text, _end(mapping, text), indent, f"{key}: {value}")


def _find(text: str, location: Location) -> yaml.Node | None:
    """The node at `location`; None where there is none. CannotEdit where an alias leads there."""
    node = yaml.SafeLoader(text).get_single_node()
    for part in location:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((name.end_mark, value) for name, value in node.value if name.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = (node.start_mark, node.value[part])
        if found is None:
            return None
        mark, node = found
        if node.start_mark.index < mark.index:
            raise CannotEdit(f"{part} is an alias of what line {node.start_mark.line + 1} has")
    return node


def _insert_in_flow(text: str, node: yaml.CollectionNode, piece: str) -> str:
    if node.value:
        last = node.value[-1]
        at = (last[1] if isinstance(last, tuple) else last).end_mark.index
        return f"{text[:at]}, {piece}{text[at:]}"
    at = text.index("{" if isinstance(node, yaml.MappingNode) else "[", node.start_mark.index) + 1
    return text[:at] + piece + text[at:]


def _insert_line(text: str, index: int, indent: int, line: str) -> str:
    """`text` with one more line behind the one that `index` is in."""
    newline = _newline(text)
    end = text.find("\n", index) + 1
    if not end:
        return f"{text}{newline}{' ' * indent}{line}"
    return f"{text[:end]}{' ' * indent}{line}{newline}{text[end:]}"


def _end(node: yaml.Node, text: str) -> int:
    """Where the last thing in `node` ends. The mark of a block is where the next thing begins."""
    if not isinstance(node, yaml.CollectionNode) or node.flow_style:
        return len(text[: node.end_mark.index].rstrip())
    last = node.value[-1]
    if isinstance(last, tuple):
        name, value = last
        last = name if value.start_mark.index < name.end_mark.index else value  # an alias stands elsewhere
    return _end(last, text)


def _is_absent(node: yaml.Node) -> bool:
    return node.start_mark.index == node.end_mark.index


def _column(text: str, index: int) -> int:
    return index - (text.rfind("\n", 0, index) + 1)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
