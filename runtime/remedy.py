"""What calls.json says of one call with its arguments. Pure, and without imports.

builder/seccomp/naming.py writes the file, and says what is in it.
"""

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Lines = list[list[list[int]]]


def way(call: "dict[str, Any]", arguments: list[int]) -> str:
    """How config.yaml allows `call` with these arguments; empty where nothing does."""
    if text := _first(call["ways"], arguments):
        return text
    conditions = " and ".join(
        f"{name} == {arguments[at] & 0xFFFF_FFFF:#x}" for at, name in call.get("arguments", ())
    )
    if not conditions:
        return ""
    before = call.get("before", "")
    return f'{before}syscalls: {{allow: [{{{call["name"]}: {{when: ["{conditions}"]}}}}]}}'


def kept(call: "dict[str, Any]", arguments: list[int]) -> str:
    """Why nothing lets `call` through with these arguments; empty where something may."""
    return _first(call.get("kept", ()), arguments)


def probed(call: "dict[str, Any]", arguments: list[int]) -> bool:
    """Whether every program makes this call, and goes on without an answer."""
    return _meet(call.get("probes", ()), arguments)


def _first(ways: "Iterable[tuple[str, Lines]]", arguments: list[int]) -> str:
    """The text of the first of `ways` whose lines hold for these arguments; empty where none does."""
    return next((str(text) for text, lines in ways if not lines or _meet(lines, arguments)), "")


def _meet(lines: "Iterable[list[list[int]]]", arguments: list[int]) -> bool:
    """Whether one of `lines`, each of [argument, mask, value] that must hold together, holds."""
    return any(all(arguments[at] & mask == value for at, mask, value in line) for line in lines)
