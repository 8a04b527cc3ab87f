"""The assembled image, parted into its layers: which file lies in which, and the files moved there."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from builder.tree.origin import Origin, Origins
from builder.tree.patterns import Patterns
from builder.tree.root import Root, is_below, parents
from builder.tree.spec import TREE_PATH, Layer
from builder.tree.write import normalize


def layers_of(origins: Sequence[Origin], layers: Sequence[Layer]) -> list[int]:
    """For each origin the index of its layer.

    By its name, else by its kind, else the last one; where several layers have its kind, the first word of
    its name (a package's without its version) decides which. A library that others need lies where the lowest
    of these does: one of the standard library stays where it is, whatever package needs it too.
    """
    by_name = {what: index for index, layer in enumerate(layers) for what in layer.origins}
    by_kind: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        for kind in layer.kinds:
            by_kind.setdefault(kind, []).append(index)
    last = len(layers) - 1
    needed_ones = {needed for origin in origins for needed in origin.needs}
    found = []
    for origin in origins:
        parts = by_kind.get(origin.kind, [last])
        number = zlib.crc32(origin.what.split(" ")[0].lower().encode("utf-8", "surrogateescape"))
        found.append(by_name.get(origin.what, parts[number % len(parts)]))
    for index in needed_ones:
        if origins[index].kind == "library" and origins[index].what not in by_name:
            found[index] = last
    pending = list(range(len(origins)))
    while pending:
        for needed in origins[index := pending.pop()].needs:
            if origins[needed].kind == "library" and found[index] < found[needed]:
                found[needed] = found[index]
                pending.append(needed)
    return found


class Placement:
    """Which layer each path of the image lies in."""

    def __init__(self, layers: Sequence[Layer], origins: Origins, tree: Root) -> None:
        """`tree` is the finished tree."""
        self._layers = layers
        self._tree = tree
        of_origin = layers_of(origins.origins, layers)
        self._files = {path: of_origin[index] for path, index in origins.file_origin.items()}
        self._patterns = [Patterns(layer.files, {}) for layer in layers]
        self._last = len(layers) - 1
        self._folders: dict[str, int] = {}
        for path, index in self._files.items():
            for folder in parents(path):
                self._folders[folder] = min(index, self._folders.get(folder, self._last))

    def __call__(self, path: str) -> str:
        """The name of the layer of a file or a link, by its path in the image."""
        if is_below(path, TREE_PATH):
            index = self._in_tree(path.removeprefix(TREE_PATH))
        else:
            matching = (index for index, patterns in enumerate(self._patterns) if patterns.match(path))
            index = next(matching, self._last)
        return self._layers[index].name

    def _in_tree(self, jail_path: str) -> int:
        if jail_path in self._files:
            return self._files[jail_path]
        # A link lies with what it leads to: with the lowest of it, where that is a folder.
        real = self._tree.real(jail_path)
        return self._last if real is None else self._files.get(real, self._folders.get(real, self._last))


def part(image: Path, out: Path, place: Callable[[str], str], empty: str, epoch: int) -> None:
    """Moves what is in the folder `image` into folders of `out`, one a layer, and removes `image`.

    Each has the folders around its files, with their modes and dated `epoch`; `empty` is the layer of a
    folder without any.
    """
    moves: list[tuple[str, str]] = []  # of all before the first is done: links are followed in the whole tree
    modes: dict[str, int] = {}
    for folder, folders, files in os.walk(image):
        path = folder.removeprefix(str(image))
        modes[path] = Path(folder).stat().st_mode
        links = [name for name in folders if Path(folder, name).is_symlink()]
        moves += [(place(f"{path}/{name}"), f"{path}/{name}") for name in (*files, *links)]
        if not files and not folders:
            moves.append((empty, path))
    made: set[tuple[str, str]] = set()
    for layer, path in moves:
        is_folder = path in modes
        above = ([path] if is_folder else []) + [folder.rstrip("/") for folder in parents(path)]
        for folder in reversed(above):
            if (layer, folder) not in made:
                Path(f"{out}/{layer}{folder}").mkdir(parents=True, exist_ok=True)
                made.add((layer, folder))
        if not is_folder:
            Path(f"{image}{path}").rename(f"{out}/{layer}{path}")
    for layer, folder in made:
        normalize(Path(f"{out}/{layer}{folder}"), modes[folder] & 0o7777, epoch)
    shutil.rmtree(image)
