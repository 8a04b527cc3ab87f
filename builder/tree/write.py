"""Writes decided contents to disk: copies, bytecode, normal modes and times."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from builder.tree.bytecode import Compiler, cache_path, is_frozen
from builder.tree.contents import Contents
from builder.tree.root import Root, is_below
from builder.tree.spec import PACKAGES_PATH
from builder.tree.strip import copy_file

FOLDER_MODE = 0o755
FILE_MODE = 0o644
PROGRAM_MODE = 0o755
"""Of the interpreter and the loader alone: nothing else in the tree has a reason to be executed, shared
libraries included, which are mapped and not executed."""

_WORTH_A_PROCESS = 1000
"""Modules: fewer are compiled sooner than a process of their own is ready."""


def copy_contents(
    contents: Contents, root: Root, tree: Path, epoch: int, progress: Callable[[str], None]
) -> None:
    """Fills the new folder `tree` with all but the bytecode. No file shares an inode with the base."""
    _make_folders(tree, contents.directories)
    copied = sorted(contents.files - contents.sourceless)
    for count, jail_path in enumerate(copied):
        if count % 500 == 0:
            progress(f"copying: {count} of {len(copied)} files")
        source, path = root.host(jail_path), tree / jail_path[1:]
        # The locked packages are ours, with the modes of the tree already: a link for each in place of a
        # gigabyte. Nobody writes into the tree any more; the image gets contents alone.
        link = root.packages is not None and is_below(jail_path, PACKAGES_PATH)
        copy_file(source, path, link=link and stat.S_IMODE(source.lstat().st_mode) == FILE_MODE)
        normalize(path, PROGRAM_MODE if jail_path in contents.executables else FILE_MODE, epoch)
    for jail_path, text in contents.texts.items():
        path = tree / jail_path[1:]
        path.unlink(missing_ok=True)  # it may be a link to a file that another build has, too
        path.write_bytes(text)
        normalize(path, FILE_MODE, epoch)
    for jail_path, target in contents.links.items():
        path = tree / jail_path[1:]
        path.symlink_to(target)
        set_time(path, epoch)
    for folder in contents.directories:
        set_time(tree / folder[1:], epoch)


def compile_contents(
    contents: Contents,
    root: Root,
    tree: Path,
    epoch: int,
    progress: Callable[[str], None],
    compiler: Compiler,
) -> None:
    """Adds the bytecode to a tree that copy_contents filled. Sources that are not valid Python have none."""
    modules = {
        source: f"{source}c" if source in contents.sourceless else cache_path(source)
        for source in sorted(contents.modules)
        if not is_frozen(source, contents.interpreter.stdlib)
    }
    folders = {posixpath.dirname(output) for output in modules.values()}
    _make_folders(tree, folders)

    def compile_one(source: str) -> None:
        content = contents.texts.get(source)
        if content is None:
            content = root.host(root.resolve(source).path).read_bytes()
        compiled = compiler.compile(content, source)
        if compiled is not None:
            path = tree / modules[source][1:]
            path.unlink(missing_ok=True)
            path.write_bytes(compiled)
            normalize(path, FILE_MODE, epoch)

    total = len(modules)
    _share(compile_one, list(modules), lambda count: progress(f"compiling: {count} of {total} modules"))
    for folder in folders | {posixpath.dirname(folder) for folder in folders}:
        set_time(tree / folder[1:], epoch)


def _share(work: Callable[[str], None], items: Sequence[str], progress: Callable[[int], None]) -> None:
    """Does `work` on each item, in as many processes as are worth it."""
    shares = min(os.cpu_count() or 1, len(items) // _WORTH_A_PROCESS + 1)
    children = []
    for number in range(1, shares):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for item in items[number::shares]:
                    work(item)
                status = 0
            except OSError as error:
                status = error.errno or status
            finally:
                os._exit(status)
        children.append(child)
    failed = 0
    try:
        for count, item in enumerate(items[::shares]):
            if count % 100 == 0:
                progress(count * shares)
            work(item)
    finally:
        for child in children:
            failed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or failed
    if failed:
        # The child had nobody to tell more than the number of its error.
        raise OSError(max(failed, 0), os.strerror(max(failed, 0)), "a process that compiles")


def normalize(path: Path, mode: int, epoch: int) -> None:
    """Gives a file or a folder its mode and time."""
    path.chmod(mode)
    set_time(path, epoch)


def set_time(path: Path, epoch: int) -> None:
    """Sets the times of a file, a folder or a link itself."""
    os.utime(path, (epoch, epoch), follow_symlinks=False)


def _make_folders(top: Path, folders: Iterable[str]) -> None:
    """Makes `folders`, which are jail paths, below `top`, whatever the umask is."""
    for folder in sorted(folders):
        path = top / folder[1:]
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(FOLDER_MODE)
