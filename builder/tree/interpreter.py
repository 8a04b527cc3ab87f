"""Finds the parts of a Python installation in a root filesystem, without running it.

Follows getpath.py of CPython 3.11 and later: the prefix is the nearest folder above the executable that has
lib/pythonX.Y/os.py, unless a pyvenv.cfg beside or above the executable names another home.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

from builder.arch import Arch
from builder.errors import BuildError, ConfigError
from builder.tree.elf import CorruptElf, is_elf, read_elf
from builder.tree.root import Root, parents

_LANDMARK = re.compile(r"python3\.(\d+)t?")
_PROGRAM_FOLDERS = ("/usr/local/bin", "/usr/bin", "/opt/python/bin")
"""Where a hint looks for interpreters."""
_LIBRARY_FOLDERS = ("lib", "lib64")
"""sys.platlibdir: lib64 on Fedora and its kin."""


@dataclass(frozen=True)
class Interpreter:
    """A Python installation, by jail paths that hold no link but where it says so."""

    configured: str
    """python_path as config.yaml has it; may be a link."""
    executable: str
    path: str
    """What to run: the executable itself, or a virtual environment's link to it, which makes it one."""
    loader: str
    """PT_INTERP of the executable; may be a link."""
    version: tuple[int, int]
    stdlib: str
    zip: str
    """Where Python looks for a zipped standard library; first on sys.path whether it exists or not."""
    site: tuple[str, ...]
    """Folders of packages that exist, in the order of sys.path."""
    venv_config: str | None = None
    """The pyvenv.cfg of a virtual environment."""

    @property
    def dynload(self) -> str:
        """The standard library's extension modules."""
        return f"{self.stdlib}/lib-dynload"


def find_interpreter(root: Root, python_path: str, arch: Arch, base: str) -> Interpreter:
    """The installation that `python_path` belongs to.

    ConfigError (exit 2) where `python_path` is not there or is not an interpreter; BuildError where it is
    one without a standard library.
    """
    real = _executable(root, python_path, base)
    loader = _program_interpreter(root, python_path, real, arch, base)
    folder = root.resolve(posixpath.dirname(python_path)).path
    venv = _venv(root, folder)
    home = real
    if venv is not None:
        if "home" not in venv.settings:
            raise BuildError(f"python_path: {venv.path} in {base} names no home", "make the environment anew")
        # `home` is a folder: any name in it will do as the place to search from.
        home = posixpath.join(root.real(venv.settings["home"]) or venv.settings["home"], "python3")
    prefix, stdlib = _standard_library(root, home, posixpath.basename(real), python_path, base)
    name = posixpath.basename(stdlib)
    site = _site_folders(root, prefix, name)
    if venv is not None:
        own = _site_folders(root, posixpath.dirname(venv.path), name)
        shared = venv.settings.get("include-system-site-packages", "false").lower() == "true"
        site = (*own, *site) if shared else own
    return Interpreter(
        configured=python_path,
        executable=real,
        path=posixpath.join(folder, posixpath.basename(python_path)) if venv is not None else real,
        loader=loader,
        version=_version(name),
        stdlib=stdlib,
        zip=posixpath.join(posixpath.dirname(stdlib), f"{name.replace('.', '')}.zip"),
        site=site,
        venv_config=venv.path if venv is not None else None,
    )


def read_release(root: Root, version: tuple[int, int], files: Iterable[str]) -> str:
    """The whole version, as 3.13.5, which the first of `files` that has it carries as a text; "" in none.

    PY_VERSION, which sys.version is made of, in the program or in libpython.
    """
    text = re.compile(rb"\0(%d\.%d\.\d{1,3}(?:(?:a|b|rc)\d{1,2})?)\+?\0" % version)
    for path in files:
        if found := text.search(root.host(path).read_bytes()):
            return found[1].decode()
    return ""


def _executable(root: Root, python_path: str, base: str) -> str:
    try:
        real = root.resolve(python_path).path
    except FileNotFoundError:
        found = [path for folder in _PROGRAM_FOLDERS for path in _interpreters(root, folder)]
        hint = f"the base has {' and '.join(found)}" if found else "name the interpreter that the base has"
        raise ConfigError([(f"python_path: {python_path} is not in {base}", hint)]) from None
    except OSError as error:
        raise ConfigError([(f"python_path: {python_path} in {base}: {error.strerror}", None)]) from None
    if not root.host(real).is_file():
        raise ConfigError([(f"python_path: {python_path} in {base} is not a file", None)])
    return real


def _interpreters(root: Root, folder: str) -> list[str]:
    """What in `folder` is called like an interpreter."""
    return [f"{folder}/{name}" for name in root.names(folder) if _LANDMARK.fullmatch(name)]


def _program_interpreter(root: Root, python_path: str, real: str, arch: Arch, base: str) -> str:
    """PT_INTERP of the executable, once it is sure that this is a program for `arch`."""
    host_path = root.host(real)
    if not is_elf(host_path):
        with host_path.open("rb") as file:
            script = file.read(2) == b"#!"
        what = "a script, not the interpreter itself" if script else "not an ELF program"
        hint = "give the program that it starts in the end" if script else None
        raise ConfigError([(f"python_path: {python_path} in {base} is {what}", hint)])
    try:
        elf = read_elf(host_path)
    except CorruptElf as error:
        message = f"python_path: {python_path} in {base} is a damaged program: {error}"
        raise ConfigError([(message, None)]) from None
    if elf.machine != arch.elf_machine:
        message = f"python_path: {python_path} in {base} is a program for {elf.machine}, not for {arch.name}"
        raise ConfigError([(message, None)])
    if elf.interpreter is None:
        hint = "a dynamically linked interpreter is needed: a static one cannot import extension modules"
        raise ConfigError([(f"python_path: {python_path} in {base} names no dynamic loader", hint)])
    return elf.interpreter


def _standard_library(root: Root, executable: str, name: str, python_path: str, base: str) -> tuple[str, str]:
    """(prefix, standard library) of the executable at a resolved path, whose own name may be its version."""
    wanted = name if _LANDMARK.fullmatch(name) else None
    for prefix in parents(executable):
        found = [
            posixpath.join(prefix, library, version)
            for library in _LIBRARY_FOLDERS
            for version in root.names(posixpath.join(prefix, library))
            if _LANDMARK.fullmatch(version)
            and version in (wanted or version,)
            and root.is_file(posixpath.join(prefix, library, version, "os.py"))
        ]
        # /lib and /lib64 may be one folder.
        stdlibs = sorted({root.resolve(path).path for path in found})
        if len(stdlibs) > 1:
            raise BuildError(
                f"python_path: {python_path} in {base} may belong to any of {', '.join(stdlibs)}",
                "give the interpreter by a name that has its version, as python3.13",
            )
        if stdlibs:
            # The prefix by its real path, as the kernel gives it to the running program.
            return prefix, stdlibs[0]
    raise BuildError(
        f"python_path: no standard library (lib/{wanted or 'python3.*'}/os.py) for {python_path} in {base}",
        "install the standard library beside the interpreter, as Debian's libpython3-stdlib",
    )


def _version(stdlib_name: str) -> tuple[int, int]:
    match = _LANDMARK.fullmatch(stdlib_name)
    assert match is not None  # noqa: S101 - _standard_library found it by this very pattern
    return 3, int(match[1])


def _site_folders(root: Root, prefix: str, name: str) -> tuple[str, ...]:
    """The existing folders of packages below `prefix`, Debian's own layout included."""
    folders = [posixpath.join(prefix, library, name, "site-packages") for library in _LIBRARY_FOLDERS]
    if prefix == "/usr":
        folders += [f"/usr/local/lib/{name}/dist-packages", "/usr/lib/python3/dist-packages"]
    real = [root.resolve(folder).path for folder in folders if root.is_dir(folder)]
    return tuple(dict.fromkeys(real))


@dataclass(frozen=True)
class _Venv:
    path: str
    settings: dict[str, str]


def _venv(root: Root, folder: str) -> _Venv | None:
    """The pyvenv.cfg that makes an executable in `folder` part of a virtual environment."""
    for place in (folder, posixpath.dirname(folder)):
        real = root.real(posixpath.join(place, "pyvenv.cfg"))
        if real is None:
            continue
        lines = root.host(real).read_text(errors="surrogateescape").splitlines()
        pairs = (line.partition("=") for line in lines if "=" in line)
        return _Venv(real, {key.strip().lower(): value.strip() for key, _, value in pairs})
    return None
