"""What a layer's tar holds, entry by entry, and in what two of them differ. They need not be ours."""

from __future__ import annotations

import hashlib
import stat
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, cast

from builder.compare.contents import why
from builder.layers import BoundedInfo

_CHUNK_BYTES = 1 << 20
_BLOCK_BYTES = 512

_MOST_ENTRIES = 1_000_000
_MOST_WORDS_BYTES = 256 << 20
"""Names, link targets and PAX headers of one layer: they are held in memory."""

_MOST_EXPLAINED_BYTES = 8 << 20
_MOST_HELD_BYTES = 64 << 20
"""Of the contents of one layer that are read once more, to say why they differ."""

_FOLDER = "folder"

Key = tuple[str, int]
"""A path, and how many entries before it in the tar have the same one."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same in both images."""

    where: str
    """`config`, `manifest`, `layers`, or `layer NAME`."""
    path: str
    """Of the file in the layer, or the key in the config; empty where the whole is meant."""
    what: str
    """As `content`, `mode`, `only in AFTER`."""
    before: str | None = None
    after: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Entry:
    """One entry of a tar, without its content."""

    kind: str
    mode: str
    owner: str
    """Numbers, and names where it has any."""
    mtime: float
    target: str
    """Of a link; of a device its numbers."""
    size: int
    sha256: str
    """Of a file's content; empty for all else."""
    pax: tuple[tuple[str, str], ...]
    offset: int
    """Of its header in the tar, with all that belongs to it."""


@dataclass(frozen=True)
class Layer:
    """A tar's entries, in their order, and the SHA-256 of the whole tar."""

    entries: dict[Key, Entry]
    digest: str


Opener = Callable[[], IO[bytes]]
"""Opens a layer's tar, decompressed as it is read, from its beginning to its end."""


def read_layer(tar: IO[bytes]) -> Layer:
    """Reads a tar from its beginning to its end.

    tarfile.ReadError for one that is damaged, and for one that cannot be read in bounded memory.
    """
    source = _Digesting(tar)
    entries: dict[Key, Entry] = {}
    seen: dict[str, int] = {}
    words = 0
    with _opened(cast("IO[bytes]", source)) as opened:
        for info in opened:
            if info.issparse():
                raise tarfile.ReadError(f"{info.name!r} has holes, which sandbox-build never writes")
            pax = tuple(sorted((str(name), str(value)) for name, value in info.pax_headers.items()))
            # An empty entry is not for nothing either.
            words += 200 + len(info.name) + len(info.linkname) + sum(len(n) + len(v) + 100 for n, v in pax)
            if len(entries) >= _MOST_ENTRIES or words > _MOST_WORDS_BYTES:
                raise tarfile.ReadError("a layer with more entries, or longer names, than can be compared")
            nth = seen[info.name] = seen.get(info.name, -1) + 1
            entries[info.name, nth] = _entry(opened, info, pax)
    while source.read(_CHUNK_BYTES):  # what is behind the last entry
        pass
    return Layer(entries, source.digest)


def compare_layers(name: str, before: Layer, after: Layer, tars: tuple[Opener, Opener]) -> list[Difference]:
    """Everything in which two layers differ whose tars are not the same, in the order of AFTER's entries."""
    where = f"layer {name}"
    both = [key for key in before.entries if key in after.entries]
    found = [
        *(
            _only("BEFORE", where, key, one)
            for key, one in before.entries.items()
            if key not in after.entries
        ),
        *(_only("AFTER", where, key, one) for key, one in after.entries.items() if key not in before.entries),
    ]
    changed = {key for key in both if _is_changed(before.entries[key], after.entries[key])}
    reasons = _reasons(changed, before, after, tars)
    for key in both:
        found += _compare_entries(
            where, key[0], before.entries[key], after.entries[key], reasons.get(key, "")
        )
    order = [key for key in after.entries if key in before.entries]
    if order != both:
        one, other = next(pair for pair in zip(both, order, strict=True) if pair[0] != pair[1])
        found.append(Difference(where, "", "order of the entries", one[0], other[0]))
    if not found:
        found.append(_written_otherwise(where, after, tars))
    return found


def only_in(side: str, name: str, layer: Layer) -> list[Difference]:
    """Of a layer that one side alone has: `side` is BEFORE or AFTER."""
    where = f"layer {name}"
    entries = [_only(side, where, key, entry) for key, entry in layer.entries.items()]
    return [Difference(where, "", f"only in {side}"), *entries]


def with_moves(found: Sequence[Difference]) -> list[Difference]:
    """The same, with what left one layer and came into another told once."""
    gone, new = (
        {one.path: one for one in found if one.what == f"only in {side}" and one.why not in ("", _FOLDER)}
        for side in ("BEFORE", "AFTER")
    )
    moved = {path for path in gone if path in new and gone[path].where != new[path].where}
    kept = []
    for one in found:
        if one.path not in moved or one not in (gone[one.path], new[one.path]):
            kept.append(one)
        elif one is new[one.path]:
            other = gone[one.path]
            what = "" if one.why == other.why else f"{other.why} -> {one.why}"
            kept.append(Difference(one.where, one.path, "moved", other.where, one.where, what))
    return kept


def _only(side: str, where: str, key: Key, entry: Entry) -> Difference:
    about = f"file of {entry.size} bytes, sha256:{entry.sha256}" if entry.sha256 else entry.kind
    return Difference(where, key[0], f"only in {side}", why=f"{about} {entry.target}".rstrip())


def _is_changed(before: Entry, after: Entry) -> bool:
    return before.kind == after.kind and before.sha256 != after.sha256


def _compare_entries(where: str, path: str, before: Entry, after: Entry, reason: str) -> Iterator[Difference]:
    facts = (
        ("kind", before.kind, after.kind),
        ("mode", before.mode, after.mode),
        ("owner", before.owner, after.owner),
        ("mtime", f"{before.mtime}", f"{after.mtime}"),
        ("target", before.target, after.target),
    )
    for what, one, other in facts:
        if one != other:
            yield Difference(where, path, what, one, other)
    if _is_changed(before, after):
        texts = [f"{one.size} bytes, sha256:{one.sha256}" for one in (before, after)]
        yield Difference(where, path, "content", texts[0], texts[1], reason)
    if before.pax != after.pax:
        ours, theirs = dict(before.pax), dict(after.pax)
        for name in sorted({*ours, *theirs}):
            if ours.get(name) != theirs.get(name):
                yield Difference(where, path, f"PAX header {name}", ours.get(name), theirs.get(name))


def _reasons(
    changed: Collection[Key], before: Layer, after: Layer, tars: tuple[Opener, Opener]
) -> dict[Key, str]:
    """Why contents differ: of as many files as are small enough to be held, both sides at once."""
    wanted: list[Key] = []
    room = _MOST_HELD_BYTES
    for key in changed:
        size = before.entries[key].size + after.entries[key].size
        if size <= min(_MOST_EXPLAINED_BYTES, room):
            wanted.append(key)
            room -= size
    if not wanted:
        return {}
    ours, theirs = (_contents(tar, set(wanted)) for tar in tars)
    return {key: why(key[0], ours[key], theirs[key]) for key in wanted}


def _contents(tar: Opener, wanted: Collection[Key]) -> dict[Key, bytes]:
    found: dict[Key, bytes] = {}
    seen: dict[str, int] = {}
    with tar() as source, _opened(source) as opened:
        for info in opened:
            nth = seen[info.name] = seen.get(info.name, -1) + 1
            if (info.name, nth) in wanted and (file := opened.extractfile(info)) is not None:
                found[info.name, nth] = file.read()
    return found


def _written_otherwise(where: str, after: Layer, tars: tuple[Opener, Opener]) -> Difference:
    """Of two tars with the same entries: where their bytes part."""
    position = 0
    with tars[0]() as ours, tars[1]() as theirs:
        while True:
            one, other = ours.read(_BLOCK_BYTES), theirs.read(_BLOCK_BYTES)
            if one != other or not one:
                break
            position += len(one)
    path = ""
    for key, entry in after.entries.items():
        if entry.offset > position:
            break
        path = key[0]
    return Difference(where, path, "how the tar is written", why=f"from block {position // _BLOCK_BYTES} on")


def _opened(source: IO[bytes]) -> tarfile.TarFile:
    # The names of a tar are UTF-8 wherever we run, as write_layer() has them.
    return tarfile.open(fileobj=source, mode="r|", tarinfo=BoundedInfo, encoding="utf-8")


def _entry(tar: tarfile.TarFile, info: tarfile.TarInfo, pax: tuple[tuple[str, str], ...]) -> Entry:
    digest = ""
    if info.isreg():
        file = tar.extractfile(info)
        assert file is not None  # noqa: S101 - None is for what is no file
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    names = [name for name in (info.uname, info.gname) if name]
    is_device = info.ischr() or info.isblk()
    return Entry(
        kind=_kind(info),
        mode=f"{stat.S_IMODE(info.mode):04o}",
        owner=f"{info.uid}:{info.gid}" + (f" ({':'.join(names)})" if names else ""),
        mtime=info.mtime,
        target=f"{info.devmajor}:{info.devminor}" if is_device else info.linkname,
        size=info.size,
        sha256=digest,
        pax=pax,
        offset=info.offset,
    )


def _kind(info: tarfile.TarInfo) -> str:
    kinds = {
        tarfile.DIRTYPE: _FOLDER,
        tarfile.SYMTYPE: "symlink",
        tarfile.LNKTYPE: "hard link",
        tarfile.CHRTYPE: "device",
        tarfile.BLKTYPE: "device",
        tarfile.FIFOTYPE: "pipe",
    }
    return "file" if info.isreg() else kinds.get(info.type, f"type {info.type!r}")


class _Digesting:
    """A file that is read once, and the SHA-256 of what was."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()

    def read(self, size: int) -> bytes:
        piece = self._source.read(size)
        self._sha256.update(piece)
        return piece

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"
