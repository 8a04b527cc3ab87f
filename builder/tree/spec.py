"""TreeSpec: everything that the assembler must know, as one JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

TREE_PATH = "/var/sandbox/sandbox-python"
"""Where the jail tree lies in the image (dify-sandbox's own path)."""

ISOLATED = ("-I", "-S", "-B")
"""How the base's interpreter is started: no environment, no site, no start-up file, no bytecode written."""

SANDBOX_PATH = "/sandbox"
"""Where the runtime lies in the image: outside the tree, so that code in the jail cannot see it."""

INIT_PATH = f"{SANDBOX_PATH}/init"
"""The image's first process; the rest of its command follows."""

RULE_LISTS = ("system_files", "prune", "sourceless", "libraries")
"""The lists of images/python/tree.yaml, which are fields of TreeSpec."""


@dataclass(frozen=True)
class Rule:
    """One line of images/python/tree.yaml: what it is about, and why it is there."""

    match: str
    """A path (system_files), a pattern of patterns.py (prune, sourceless) or a soname (libraries)."""
    reason: str
    optional: bool = False
    """Passed over in silence where the base does not have it."""
    where: str | None = None
    """The rule holds only where the base has a path of this pattern, whose folder must have no wildcard."""


def parse_rules(lists: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, Any]:
    """The rules of a parsed tree.yaml, as keyword arguments for TreeSpec."""
    return {name: tuple(Rule(**rule) for rule in lists[name]) for name in RULE_LISTS}


@dataclass(frozen=True)
class TreeSpec:
    """What goes into the tree. Paths are absolute paths in the base, which are the same in the jail."""

    arch: str
    base: str
    """The base's name, for messages."""
    python_path: str
    python_lib_path: tuple[str, ...] | None
    """None: discovered from the interpreter. Else exactly these, on top of what the interpreter needs."""
    optional_paths: tuple[str, ...] = ()
    """Members of python_lib_path that are passed over with a warning where the base does not have them."""
    allow_missing: bool = False
    """Every missing member of python_lib_path is a warning."""
    system_files: tuple[Rule, ...] = ()
    prune: tuple[Rule, ...] = ()
    sourceless: tuple[Rule, ...] = ()
    """Modules of which the tree has the bytecode and not the source."""
    libraries: tuple[Rule, ...] = ()
    """Shared libraries opened by dlopen, which no ELF header names: sonames."""
    epoch: int = 0
    """Modification time of every entry: seconds since 1970, SOURCE_DATE_EPOCH."""
    calls: dict[str, Any] = field(default_factory=dict)
    """calls.json, from which the runtime names denied calls: builder/seccomp/naming.py."""
    runtime: dict[str, Any] = field(default_factory=dict)
    """runtime.json as far as the plan decides it; the assembler adds `python` and `sys_path`."""

    def to_json(self) -> str:
        """The same spec, the same bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TreeSpec:
        raw = json.loads(text)
        raw |= parse_rules(raw)
        for name in ("python_lib_path", "optional_paths"):
            raw[name] = None if raw[name] is None else tuple(raw[name])
        return cls(**raw)
