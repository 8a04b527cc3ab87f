"""images/python/tree.yaml and layers.yaml -> what a TreeSpec takes of them."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

from builder.tree.spec import Layer, parse_layers, parse_rules


def tree_rules() -> dict[str, Any]:
    """The rules, and the lines that modules get at their end: keyword arguments for TreeSpec."""
    folder = resources.files("images").joinpath("python")
    lists = yaml.safe_load(folder.joinpath("tree.yaml").read_text(encoding="utf-8"))
    added = {
        one["match"]: folder.joinpath("added", one["lines"]).read_text(encoding="utf-8")
        for one in lists["added"]
    }
    return parse_rules(lists) | {"added": added}


def image_layers() -> tuple[Layer, ...]:
    """The layers of an image, the lowest first."""
    text = resources.files("images").joinpath("python", "layers.yaml").read_text(encoding="utf-8")
    return parse_layers(yaml.safe_load(text))
