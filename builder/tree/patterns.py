"""The patterns of tree.yaml: which paths a rule is about."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence


class Patterns:
    """A set of patterns over jail paths.

    A pattern is a whole path. `*` is any run of characters but "/", `[abc]` and `[!abc]` one character; `**/`
    in front or behind a slash is any folder at all, or none; `{a,b}` is one of these texts; `{stdlib}` and
    `{site}` are the folders that `places` gives for them.
    """

    def __init__(self, patterns: Iterable[str], places: Mapping[str, Sequence[str]]) -> None:
        branches = [_regex(pattern, places) for pattern in patterns]
        self._pattern = re.compile("|".join(branches) or r"(?!)", re.DOTALL)

    def match(self, jail_path: str) -> bool:
        """Whether a pattern is about `jail_path` itself."""
        return self._pattern.fullmatch(jail_path) is not None

    def match_above(self, jail_path: str) -> bool:
        """Whether a pattern is about `jail_path` or about a folder that holds it."""
        while jail_path != "/":
            if self.match(jail_path):
                return True
            jail_path = posixpath.dirname(jail_path)
        return False


def _regex(pattern: str, places: Mapping[str, Sequence[str]]) -> str:
    result = ""
    for part in re.split(r"(^\*\*/|/\*\*/|\*|\{[^}]+\}|\[[^]]+\])", pattern):
        if part in ("**/", "/**/"):
            result += "/(?:.*/)?"
        elif part == "*":
            result += "[^/]*"
        elif part.startswith("["):
            result += re.sub(r"^\[!", "[^/", part)
        elif part.startswith("{") and "," in part:
            result += "(?:" + "|".join(map(re.escape, part[1:-1].split(","))) + ")"
        elif part.startswith("{"):
            folders = places[part[1:-1]]
            # No folder at all: nothing below it can match.
            result += "(?:" + "|".join(map(re.escape, folders)) + ")" if folders else "(?!)"
        else:
            result += re.escape(part)
    return result
