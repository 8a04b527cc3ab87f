"""Writes decided contents to disk: copies, bytecode, normal modes and times."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from builder.tree.bytecode import cache_path, compile_source, is_frozen
from builder.tree.contents import Contents
from builder.tree.root import Root

FOLDER_MODE = 0o755
FILE_MODE = 0o644
PROGRAM_MODE = 0o755
"""Of the interpreter and the loader alone: nothing else in the tree has a reason to be executed, shared
libraries included, which are mapped and not executed."""


def copy_contents(
    contents: Contents, root: Root, tree: Path, epoch: int, progress: Callable[[str], None]
) -> None:
    """Fills the new folder `tree` with all but the bytecode. Every file has an inode of its own."""
    _make_folders(tree, contents.directories)
    copied = sorted(contents.files - contents.sourceless)
    for count, jail_path in enumerate(copied):
        if count % 500 == 0:
            progress(f"copying: {count} of {len(copied)} files")
        path = tree / jail_path[1:]
        shutil.copyfile(root.host(jail_path), path, follow_symlinks=False)
        normalize(path, PROGRAM_MODE if jail_path in contents.executables else FILE_MODE, epoch)
    for jail_path, text in contents.texts.items():
        path = tree / jail_path[1:]
        path.write_bytes(text)
        normalize(path, FILE_MODE, epoch)
    for jail_path, target in contents.links.items():
        path = tree / jail_path[1:]
        path.symlink_to(target)
        set_time(path, epoch)
    for folder in contents.directories:
        set_time(tree / folder[1:], epoch)


def compile_contents(
    contents: Contents, root: Root, tree: Path, epoch: int, progress: Callable[[str], None]
) -> None:
    """Adds the bytecode to a tree that copy_contents filled. Sources that are not valid Python have none."""
    modules = {
        source: f"{source}c" if source in contents.sourceless else cache_path(source)
        for source in sorted(contents.modules)
        if not is_frozen(source, contents.interpreter.stdlib)
    }
    folders = {posixpath.dirname(output) for output in modules.values()}
    _make_folders(tree, folders)
    for count, (source, output) in enumerate(modules.items()):
        if count % 100 == 0:
            progress(f"compiling: {count} of {len(modules)} modules")
        path = tree / output[1:]
        if compile_source(root.host(root.resolve(source).path), path, source):
            normalize(path, FILE_MODE, epoch)
    for folder in folders | {posixpath.dirname(folder) for folder in folders}:
        set_time(tree / folder[1:], epoch)


def normalize(path: Path, mode: int, epoch: int) -> None:
    """Gives a file or a folder its mode and time."""
    path.chmod(mode)
    set_time(path, epoch)


def set_time(path: Path, epoch: int) -> None:
    """Sets the times of a file, a folder or a link itself."""
    os.utime(path, (epoch, epoch), follow_symlinks=False)


def measure(tree: Path) -> tuple[int, int]:
    """(files, bytes) below a folder, links not counted."""
    files = size = 0
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                files += 1
                size += path.stat().st_size
    return files, size


def _make_folders(top: Path, folders: Iterable[str]) -> None:
    """Makes `folders`, which are jail paths, below `top`, whatever the umask is."""
    for folder in sorted(folders):
        path = top / folder[1:]
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(FOLDER_MODE)
