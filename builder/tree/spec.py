"""TreeSpec: everything that the assembler must know, as one JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

TREE_PATH = "/var/sandbox/sandbox-python"
"""Where the jail tree lies in the image (dify-sandbox's own path)."""

PACKAGES_PATH = "/packages"
"""Where the locked packages lie in the tree: right below its root, where no base has a link on the way."""

ISOLATED = ("-I", "-S", "-B")
"""How the base's interpreter is started: no environment, no site, no start-up file, no bytecode written."""

SANDBOX_PATH = "/sandbox"
"""Where the runtime lies in the image: outside the tree, so that code in the jail cannot see it."""

REPORT_PATH = f"{SANDBOX_PATH}/report.json"
"""What the tree holds and why; what was promised of it."""

REPORT_FORMAT = 1
"""Counts up when what report.json says means something else."""

INIT_PATH = f"{SANDBOX_PATH}/init"
"""The image's first process; the rest of its command follows."""

RULE_LISTS = ("system_files", "prune", "sourceless", "libraries", "alternatives", "lacking")
"""The lists of images/python/tree.yaml, which are fields of TreeSpec."""


@dataclass(frozen=True)
class Rule:
    """One line of images/python/tree.yaml: what it is about, and why it is there."""

    match: str
    """A path (system_files, alternatives), a pattern of patterns.py (prune, sourceless, lacking), or of
    `libraries` a soname or a path; a relative one with `beside`."""
    reason: str
    optional: bool = False
    """Passed over in silence where the base does not have it."""
    where: str | None = None
    """The rule holds only where the base has a path of this pattern, whose folder must have no wildcard."""
    opener: str | None = None
    """A library's rule holds only where a file of the tree takes one of these functions from a library."""
    beside: str | None = None
    """`match` lies in the folder of each library of the tree with this name, a pattern of fnmatch."""


@dataclass(frozen=True)
class Layer:
    """One layer of images/python/layers.yaml."""

    name: str
    reason: str
    kinds: tuple[str, ...] = ()
    """The kinds of origins whose files it holds."""
    origins: tuple[str, ...] = ()
    """The same by an origin's name, which goes before."""
    files: tuple[str, ...] = ()
    """Patterns of paths outside the tree."""


def parse_layers(layers: Iterable[Mapping[str, Any]]) -> tuple[Layer, ...]:
    """The layers of a parsed layers.yaml, the lowest first; one of several `parts` is as many layers."""
    found = []
    for one in layers:
        count = one.get("parts", 1)
        names = [one["name"]] if count == 1 else [f"{one['name']}-{part}" for part in range(1, count + 1)]
        lists = {key: tuple(one.get(key, ())) for key in ("kinds", "origins", "files")}
        found += [Layer(name, one["reason"], **lists) for name in names]
    return tuple(found)


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
    python_version: str | None = None
    """What the locked packages were resolved for, as 3.13; None where there are none."""
    requirements: tuple[str, ...] = ()
    """Names of the packages that config.yaml asks for, as PEP 503 normalizes them."""
    keep_whole: tuple[str, ...] = ()
    """Names of packages of which nothing is pruned."""
    optional_libraries: tuple[str, ...] = ()
    """Sonames that may be missing; patterns of fnmatch."""
    promises: dict[str, Any] = field(default_factory=dict)
    """config.yaml's verify: what the finished jail must be able to do."""
    system_files: tuple[Rule, ...] = ()
    prune: tuple[Rule, ...] = ()
    sourceless: tuple[Rule, ...] = ()
    """Modules of which the tree has the bytecode and not the source."""
    libraries: tuple[Rule, ...] = ()
    """Shared libraries opened by dlopen, which no ELF header names."""
    alternatives: tuple[Rule, ...] = ()
    """Folders that are searched for libraries last: a script that did not run would choose between them."""
    lacking: tuple[Rule, ...] = ()
    """Modules of the standard library that are left out where the base lacks their libraries."""
    added: dict[str, str] = field(default_factory=dict)
    """Module, as a path with {stdlib} -> the lines that are added at its end."""
    layers: tuple[Layer, ...] = (Layer("root", "everything"),)
    """The image's layers, the lowest first."""
    epoch: int = 0
    """Modification time of every entry: seconds since 1970."""
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
        raw |= parse_rules(raw) | {"layers": parse_layers(raw["layers"])}
        for name in ("python_lib_path", "optional_paths", "requirements", "keep_whole", "optional_libraries"):
            raw[name] = None if raw[name] is None else tuple(raw[name])
        return cls(**raw)
