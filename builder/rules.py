"""images/python/tree.yaml -> what a TreeSpec takes of it."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

from builder.tree.spec import parse_rules


def tree_rules() -> dict[str, Any]:
    """The rules, and the lines that modules get at their end: keyword arguments for TreeSpec."""
    folder = resources.files("images").joinpath("python")
    lists = yaml.safe_load(folder.joinpath("tree.yaml").read_text(encoding="utf-8"))
    added = {
        one["match"]: folder.joinpath("added", one["lines"]).read_text(encoding="utf-8")
        for one in lists["added"]
    }
    return parse_rules(lists) | {"added": added}
