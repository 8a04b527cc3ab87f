"""Which files config.yaml's keep_whole is about: nothing of them is pruned."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from builder.tree.distributions import distributions, normalized
from builder.tree.metadata import recorded_files
from builder.tree.root import Root, is_below, parents


@dataclass(frozen=True)
class Whole:
    """The files of some distributions."""

    paths: frozenset[str]
    """Files by name, and the folders that hold them."""
    folders: tuple[str, ...]
    """Of distributions that do not list their files: all that lies in these."""
    unknown: tuple[str, ...]
    """Names of distributions that no folder has."""

    def holds(self, jail_path: str) -> bool:
        """Whether `jail_path` must stay. Bytecode is compiled anew in any case."""
        if posixpath.basename(jail_path) == "__pycache__":
            return False
        return jail_path in self.paths or any(is_below(jail_path, folder) for folder in self.folders)


def keep_whole(root: Root, sites: Sequence[str], names: Sequence[str]) -> Whole:
    """The files of the distributions `names`, in any spelling, that lie in the folders `sites`."""
    if not names:
        return Whole(frozenset(), (), ())
    wanted = {normalized(name): name for name in names}
    paths: set[str] = set()
    folders: list[str] = []
    for one in distributions(root, sites, lambda _: True):
        if normalized(one.name) not in wanted:
            continue
        wanted[normalized(one.name)] = ""
        site = posixpath.dirname(one.path)
        recorded = recorded_files(root, one.path)
        if recorded is None:
            tops = {name.split(".")[0] for name in one.imports}
            folders += [one.path, *(posixpath.join(site, top) for top in sorted(tops))]
            continue
        for jail_path in recorded:
            paths.add(jail_path)
            paths.update(folder for folder in parents(jail_path) if is_below(folder, site))
    return Whole(frozenset(paths), tuple(folders), tuple(name for name in wanted.values() if name))
