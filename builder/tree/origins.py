"""Why each file is in the tree: decided contents -> an origin for every file, and what brought each origin.

Reads METADATA and RECORD of the distributions, and links; all else is already decided.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from builder.arch import parse_arch
from builder.tree.bytecode import cache_path
from builder.tree.closure import RULE
from builder.tree.contents import Contents
from builder.tree.distributions import Distribution, normalized
from builder.tree.metadata import recorded_files, required_names
from builder.tree.origin import LOADER, Origin, Origins
from builder.tree.root import Root, is_below
from builder.tree.spec import PACKAGES_PATH, Rule, TreeSpec

_SUPPLIED = {
    "passwd": "the jail's users, which are not the base's: pwd.getpwuid",
    "group": "the jail's groups, which are not the base's: grp.getgrgid",
    "hosts": "localhost: socket.getaddrinfo",
    "nsswitch.conf": "where users, hosts and services are looked up",
    "ca-certificates.crt": "the certificates that the base would trust: ssl",
    "cert.pem": "the certificates that the base would trust: ssl",
    "ld.so.cache": "where the libraries of the tree lie: the loader, ctypes.util.find_library",
}
"""Why we write a file of our own, by its name."""


def find_origins(contents: Contents, root: Root, spec: TreeSpec) -> Origins:
    """The origin of every file that `contents` holds, its bytecode and our own texts included.

    Whatever is nowhere else told apart belongs to the nearest that is: a file to the folder around it, the
    target of a link to the link.
    """
    finder = _Finder(contents, root, spec)
    finder.add_python()
    finder.add_distributions(sorted(contents.distributions, key=lambda one: (one.path, one.name)))
    file_origin = {path: finder.of(path) for path in sorted({*contents.files, *contents.texts})}
    for module in sorted(contents.modules):
        origin = finder.of(module)
        for bytecode in (f"{module}c", cache_path(module)):
            file_origin.setdefault(bytecode, origin)
    finder.add_needs()
    return Origins(tuple(finder.origins), file_origin)


class _Finder:
    """Grows the list of origins, each when the first file asks for it."""

    def __init__(self, contents: Contents, root: Root, spec: TreeSpec) -> None:
        self.origins: list[Origin] = []
        self._contents = contents
        self._root = root
        self._spec = spec
        self._files: dict[str, int] = {}
        self._needs: dict[int, set[int]] = {}
        self._folders: dict[str, int | None] = {"/": None}
        self._leftovers: dict[str, int] = {}
        self._linked: dict[str, str] | None = None
        self._libraries = {root.real(path) or path: path for path in sorted(contents.needed_by)}
        """What a library's path leads to -> the path by which the loader opens it."""
        self._asked = self._asked_for()

    def add_python(self) -> None:
        """The interpreter, which is origin 0, its loader and its standard library."""
        python = self._contents.interpreter
        version = ".".join(map(str, python.version))
        text = f"python_path: {python.configured} in {self._spec.base}"
        program = self._add(Origin(f"Python {version}", "python", None, text))
        loader = self._add(Origin(LOADER, "python", program, f"starts {python.executable}"))
        library = self._add(Origin("standard library", "python", program, f"what {python.path} imports"))
        for path in (python.configured, python.executable, python.path, python.venv_config):
            if path is not None:
                self._files[path] = program
        for path in (python.loader, self._root.real(python.loader)):
            if path is not None:
                self._files[path] = loader
        self._folders[python.stdlib] = library

    def add_distributions(self, distributions: Sequence[Distribution]) -> None:
        """The distributions, and which files are theirs; then why each of them is there."""
        known = {*self._contents.files, *self._contents.links}
        inside = _inside(known, {posixpath.dirname(one.path) for one in distributions})
        first = len(self.origins)
        for one in distributions:
            kind = "package" if one.locked else "base-package"
            self._add(Origin(f"{one.name} {one.version}".strip(), kind, None, ""))
        for index, one in enumerate(distributions, first):
            site, name = posixpath.split(one.path)
            recorded = recorded_files(self._root, one.path)
            if recorded is None:
                # Debian's have no RECORD: by the names that are imported.
                recorded = [
                    path for module in one.imports for path in _module_files(site, module, inside[site])
                ]
            for path in (*inside[site][name], *recorded):
                if path in known:
                    self._files.setdefault(path, index)
            if not one.locked:
                self._explain(index, *self._of_site(site))
        self._add_requirements(distributions, first)

    def of(self, path: str) -> int:
        """The origin of a file or a link of the tree."""
        if path in self._contents.texts and path not in self._contents.files:
            why = _SUPPLIED.get(posixpath.basename(path), "written by sandbox-build")
            return self._add(Origin(path, "supplied", None, why))
        found = self._placed(path)
        if found is None and path in self._libraries:
            found = self._of_library(path)
        if found is None:
            found = self._of_link_to(path)
        if found is None:
            found = self._of_leftover(path)
        self._files[path] = found
        return found

    def add_needs(self) -> None:
        """Fills in what each origin needs, once all are known."""
        for real, opened in sorted(self._libraries.items()):
            if real not in self._contents.files:
                continue
            for needer in self._contents.needed_by[opened]:
                if not needer.startswith(RULE):
                    self._add_need(self._of_needer(needer), self.of(real))
        self.origins = [
            replace(origin, needs=tuple(sorted(self._needs.get(index, set()) - {index})))
            for index, origin in enumerate(self.origins)
        ]

    def _add(self, origin: Origin) -> int:
        self.origins.append(origin)
        return len(self.origins) - 1

    def _add_need(self, index: int, needed: int) -> None:
        self._needs.setdefault(index, set()).add(needed)

    def _asked_for(self) -> dict[str, Origin]:
        """The folders and files that config.yaml, its defaults or a rule name: origins in waiting."""
        spec, triplet = self._spec, parse_arch(self._spec.arch).triplet
        asked: dict[str, Origin] = {}
        for rule in spec.libraries:
            # A soname is looked up, which is the closure's to do.
            for path in self._ruled(rule, triplet):
                asked[path] = Origin(posixpath.basename(rule.match), "library", None, rule.reason)
        for rule in spec.system_files:
            path = rule.match.replace("{triplet}", triplet)
            asked[self._root.real(path) or path] = Origin(path, "system", None, rule.reason)
        for index, path in reversed(list(enumerate(spec.python_lib_path or ()))):
            text = f"python_lib_path[{index}] in config.yaml"
            asked[self._root.real(path) or path] = Origin(path, "listed", None, text)
        text = "no package of the lock file claims it"
        asked[PACKAGES_PATH] = Origin(f"{PACKAGES_PATH}, the rest", "package", None, text)
        if spec.python_lib_path is None:
            for site in self._contents.interpreter.site:
                because, text = self._of_site(site)
                asked[site] = Origin(f"{site}, the rest", "base-package", because, text)
        return asked

    def _ruled(self, rule: Rule, triplet: str) -> list[str]:
        """The files and folders that a library's rule brings by path."""
        match = rule.match.replace("{triplet}", triplet)
        if rule.beside is not None:
            named = rule.beside
            beside = [
                path for path in self._contents.needed_by if fnmatchcase(posixpath.basename(path), named)
            ]
            paths = [posixpath.join(posixpath.dirname(path), match) for path in beside]
            return [self._root.real(path) or path for path in sorted(paths)]
        return [self._root.real(match) or match] if "/" in match else []

    def _of_site(self, site: str) -> tuple[int | None, str]:
        """(because, text) of what lies in a folder of packages of the base."""
        for index, path in enumerate(self._spec.python_lib_path or ()):
            real = self._root.real(path)
            if real is not None and is_below(site, real):
                return None, f"in {site}, which python_lib_path[{index}] in config.yaml names"
        return 0, f"in {site} of {self._spec.base}, where {self._contents.interpreter.path} looks"

    def _add_requirements(self, distributions: Sequence[Distribution], first: int) -> None:
        """What each distribution requires, and why each locked one is there."""
        locked = {index for index, one in enumerate(distributions, first) if one.locked}
        # A locked one stands before the base's of the same name on sys.path.
        order = sorted(enumerate(distributions, first), key=lambda pair: pair[1].locked)
        by_name = {normalized(one.name): index for index, one in order}
        required: dict[int, list[int]] = {}
        extras: dict[int, list[int]] = {}
        for index, one in enumerate(distributions, first):
            for edges, names in zip((required, extras), required_names(self._root, one.path), strict=True):
                edges[index] = [by_name[name] for name in names if name in by_name]
            self._needs[index] = set(required[index])
        reached = []
        for name in self._spec.requirements:
            if (index := by_name.get(name, -1)) in locked and index not in reached:
                reached.append(index)
                self._explain(index, None, f"dependencies: {name} in config.yaml")
        before = -1
        while before != len(reached):
            before = len(reached)
            # An extra explains only what nothing else does.
            for edges, how in ((required, "required by"), (extras, "an extra of")):
                for index in reached:  # which grows
                    for needed in edges[index]:
                        if needed in locked and needed not in reached:
                            reached.append(needed)
                            self._add_need(index, needed)
                            self._explain(needed, index, f"{how} {self.origins[index].what}")
        for index in sorted(locked.difference(reached)):
            self._explain(index, None, "in the lock file of config.yaml")

    def _explain(self, index: int, because: int | None, text: str) -> None:
        self.origins[index] = replace(self.origins[index], because=because, text=text)

    def _placed(self, path: str) -> int | None:
        """The origin of a file by its own path: claimed, asked for, or in a folder that is."""
        if path in self._files:
            return self._files[path]
        if path in self._asked:
            self._files[path] = self._add(self._asked[path])
            return self._files[path]
        return self._of_folder(posixpath.dirname(path))

    def _of_folder(self, folder: str) -> int | None:
        if folder not in self._folders:
            asked = self._asked.get(folder)
            above = self._of_folder(posixpath.dirname(folder)) if asked is None else None
            self._folders[folder] = above if asked is None else self._add(asked)
        return self._folders[folder]

    def _of_library(self, real: str) -> int:
        """The origin of a shared library that lies where only the loader looks."""
        opened = self._libraries[real]
        by = (
            self._contents.needed_by[opened][0]
            if self._contents.needed_by[opened]
            else f"{RULE}opened by name"
        )
        what = posixpath.basename(opened)
        if by.startswith(RULE):
            return self._add(Origin(what, "library", None, by.removeprefix(RULE)))
        # Before the needer is looked at: libraries that need each other must end somewhere.
        self._files[real] = self._add(Origin(what, "library", None, ""))
        self._explain(self._files[real], self._of_needer(by), f"needed by {by}")
        return self._files[real]

    def _of_needer(self, jail_path: str) -> int:
        return self.of(self._root.real(jail_path) or jail_path)

    def _of_link_to(self, path: str) -> int | None:
        """The origin of the link that leads to `path` or to a folder around it."""
        if self._linked is None:
            links = sorted(self._contents.links, reverse=True)
            self._linked = {self._root.real(link) or link: link for link in links}
        around = path
        while around != "/":
            link = self._linked.get(around)
            if link is not None and (found := self._placed(link)) is not None:
                return found
            around = posixpath.dirname(around)
        return None

    def _of_leftover(self, path: str) -> int:
        """The origin of a file of the base that nothing asked for by name: one for each folder."""
        folder = posixpath.dirname(path)
        if folder not in self._leftovers:
            text = _SUPPLIED.get(posixpath.basename(path), "of the base, beside what the tree holds")
            self._leftovers[folder] = self._add(Origin(folder, "system", None, text))
        return self._leftovers[folder]


def _inside(paths: Iterable[str], folders: Collection[str]) -> dict[str, dict[str, list[str]]]:
    """For each of `folders` those of `paths` in it, by the name right in it, with its suffix and without."""
    found: dict[str, dict[str, list[str]]] = {folder: defaultdict(list) for folder in folders}
    for path in sorted(paths):
        for folder in folders:
            if is_below(path, folder):
                top = path[len(folder) :].lstrip("/").split("/")[0]
                for name in {top, top.split(".")[0]}:
                    found[folder][name].append(path)
    return found


def _module_files(site: str, module: str, inside: Mapping[str, Sequence[str]]) -> list[str]:
    """The files of a module or package, by its dotted name, among those `inside` the folder `site`."""
    names = module.split(".")
    place = posixpath.join(site, *names)
    return [path for path in inside.get(names[0], ()) if path.startswith((f"{place}/", f"{place}."))]
