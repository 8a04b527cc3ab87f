"""What config.yaml asks of the base, looked up in it: all that is missing is said at once."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

from builder.errors import ConfigError
from builder.tree import supplied
from builder.tree.root import Root, is_below
from builder.tree.spec import TreeSpec

_KERNEL_FOLDERS = ("/dev", "/proc", "/sys")


@dataclass(frozen=True)
class Requested:
    """The listed paths that the base has, as they are listed."""

    python_lib_path: Sequence[str]
    system_files: Sequence[str]
    warnings: Sequence[str]


def find_requested(spec: TreeSpec, root: Root, triplet: str) -> Requested:
    """The paths of `spec` that the base has.

    One that it lacks is passed over in silence where the tree has a file of its own for it or the rule is
    optional, with a warning where dify-sandbox would do so or the user wants it, and else is a problem.
    ConfigError (exit 2) has all of them.
    """
    warnings: list[str] = []
    problems: list[tuple[str, str | None]] = []

    def has(jail_path: str, where: str) -> bool:
        if jail_path in (*supplied.NAME_SERVICE, *supplied.OF_THE_BASE):
            return False  # those of the running container are what a run gets
        missing = _missing(jail_path, root)
        if missing is None:
            if _is_too_much(jail_path, root):
                message = f"{where}: {jail_path} in {spec.base} is more than a tree can hold"
                problems.append((message, "list the folders that are needed"))
            return True
        if jail_path in supplied.PATHS:
            return False
        message = f"{where}: {jail_path} {missing} {spec.base}"
        if spec.allow_missing or jail_path in spec.optional_paths:
            warnings.append(f"{message}: passed over")
        else:
            nearest = root.nearest(jail_path)
            problems.append((message, f"the nearest that exists is {nearest}; or build with --allow-missing"))
        return False

    listed = [
        jail_path
        for index, jail_path in enumerate(spec.python_lib_path or ())
        if has(jail_path, f"python_lib_path[{index}]")
    ]
    rules = [(rule.match.replace("{triplet}", triplet), rule) for rule in spec.system_files]
    system_files = [
        jail_path
        for jail_path, rule in rules
        if jail_path not in supplied.NAME_SERVICE
        and (root.real(jail_path) is not None if rule.optional else has(jail_path, rule.reason))
    ]
    if problems:
        raise ConfigError(problems)
    return Requested(listed, system_files, warnings)


def _missing(jail_path: str, root: Root) -> str | None:
    """Why `jail_path` leads nowhere; None where it does lead somewhere."""
    try:
        root.resolve(jail_path)
    except OSError as error:
        reasons = {errno.ELOOP: "goes round in a circle of links in", errno.EACCES: "may not be read in"}
        return reasons.get(error.errno or 0, "is not in")
    return None


def _is_too_much(jail_path: str, root: Root) -> bool:
    real = root.resolve(jail_path).path
    return real == "/" or any(is_below(real, folder) for folder in _KERNEL_FOLDERS)
