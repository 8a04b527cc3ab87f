"""LibrarySearch against the truth: glibc's own loader, asked by LD_TRACE_LOADED_OBJECTS what it loads."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest

from builder.tree.folders import loader_folders
from builder.tree.ldcache import PATH, read_ld_so_cache
from builder.tree.libraries import LibrarySearch
from builder.tree.root import Root
from tests.fakeroot import ARCH, NODEFLIB, elf

FOLDERS = ("a", "a/lib", "b", "b.libs", f"a/lib/{ARCH.triplet}", f"b/p/{ARCH.machine}")
PATHS = (
    *("$ORIGIN", "${ORIGIN}", "$ORIGIN/../b.libs", "${ORIGIN}/lib", "$ORIGIN/$LIB", "$ORIGIN/p/${PLATFORM}"),
    *(
        "$ORIGINx",
        "${ORIGIN}.libs",
        "$ORIGIN_/b",
        "relative",
        "{top}/a",
        "{top}/a/lib",
        "{top}/b",
        "/nowhere",
    ),
)
NAMES = ("one.so", "two.so", "three.so.1", "four.so", "libz.so.1", "libc.so.6")
VERSIONS = ("V_1", "V_2", "V_3")


def loader_says(path: Path) -> tuple[set[str], set[str], set[tuple[str, str]]] | None:
    """(paths of libraries, missing names, missing versions and who needs them); None where it gives up."""
    done = subprocess.run(
        [ARCH.loader, str(path)],
        env={"LD_TRACE_LOADED_OBJECTS": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return None
    found = set(re.findall(r"^\t(?:\S+ => )?(/.*) \(0x", done.stdout, re.MULTILINE))
    missing = set(re.findall(r"^\t(\S+) => not found", done.stdout, re.MULTILINE))
    versions = set(re.findall(r": version [`'](\S+)' not found \(required by (\S+)\)", done.stderr))
    return found - {ARCH.loader, str(path)}, missing, versions


def search_says(path: Path) -> tuple[set[str], set[str], set[tuple[str, str]]] | None:
    """The same from LibrarySearch."""
    root = Root(Path("/"))
    defaults = loader_folders(root, ARCH.loader)
    cache = read_ld_so_cache(Path(PATH).read_bytes(), ARCH)
    search = LibrarySearch(root, ARCH, defaults, cache=cache, defaults=defaults)
    needs = search.needs(str(path))
    if search.broken:
        return None
    loader = root.real(ARCH.loader)
    missing = {one.soname for one in needs.missing if one.version is None}
    versions = {(one.version, one.chain[-1]) for one in needs.missing if one.version is not None}
    return {one for one in needs.found if root.real(one) != loader}, missing, versions


def random_file(chance: random.Random, top: Path) -> bytes:
    """A library that needs some of NAMES, by one way or another."""
    paths = [path.replace("{top}", str(top)) for path in chance.sample(PATHS, chance.randint(0, 3))]
    kind = chance.choice(("rpath", "rpath", "runpath", "both", "none"))
    needed = chance.sample(NAMES, chance.randint(0, 3))
    if chance.random() < 0.1:
        needed.append(chance.choice(("$ORIGIN/one.so", f"{top}/a/two.so", "./one.so", "b/one.so")))
    wanted = {
        name: chance.sample(VERSIONS, 2) for name in needed if "/" not in name and chance.random() < 0.3
    }
    return elf(
        needed=needed,
        rpath=":".join(paths) if kind in ("rpath", "both") else "",
        runpath=":".join(reversed(paths)) if kind in ("runpath", "both") else "",
        soname=chance.choice(("", *NAMES[:4])),
        versions=chance.sample(VERSIONS, 2) if chance.random() < 0.5 else (),
        wanted=wanted,
        weak=chance.random() < 0.2,
        flags=NODEFLIB if chance.random() < 0.1 else 0,
        machine=chance.choice((*(ARCH.elf_machine,) * 8, "EM_386")),
    )


@pytest.mark.parametrize("seed", range(40))
def test_random_libraries_are_found_as_the_loader_finds_them(tmp_path: Path, seed: int) -> None:
    """Search paths of every kind, tokens, sonames, versions, links, files that are no library."""
    chance = random.Random(seed)
    top = tmp_path.resolve()
    files = []
    for folder in FOLDERS:
        (top / folder).mkdir(parents=True, exist_ok=True)
        for name in NAMES[:5]:
            path = top / folder / name
            draw = chance.random()
            if draw < 0.45:
                path.write_bytes(random_file(chance, top))
                files.append(path)
            elif draw < 0.55 and files:
                path.symlink_to(chance.choice(files))
            elif draw < 0.60:
                path.symlink_to("gone")
            elif draw < 0.62:
                path.write_text("INPUT(libz.so.1)\n")
    # Not each of them itself: the loader does not know the file of its program again under another name.
    start = top / "start.so"
    for path in files:
        start.write_bytes(elf(needed=[str(path)]))
        assert search_says(start) == loader_says(start), path
