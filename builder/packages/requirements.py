"""Requirements files: read, made uniform, and refused where a lock cannot keep what a line asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from builder.config_values import shown

_SIZE_LIMIT = 1 << 20
_INCLUDES_LIMIT = 50
_COMMENT = re.compile(r"(^|\s+)#.*$")
_INCLUDE = re.compile(r"(?:-r|--requirement|(-c|--constraint))(?:\s+|=|(?<=-[rc]))(\S.*)")

_INDEX_HINT = "write it into config.yaml as python_pip_mirror_url"
_WHEELHOUSE_HINT = (
    "put a wheel of it into a folder, name the package here, and give the folder as --wheelhouse"
)
_OPTIONS = (
    # The first that matches decides.
    (
        r"-i|--index-url|--extra-index-url|--no-index|--trusted-host",
        "an index cannot be chosen here",
        _INDEX_HINT,
    ),
    (r"-f|--find-links", "a folder of wheels cannot be named here", "give it as --wheelhouse"),
    (r"-e|--editable", "an editable package cannot be locked", _WHEELHOUSE_HINT),
    (
        r"--no-binary|--only-binary|--prefer-binary",
        "how a package is installed cannot be said here",
        "packages come as wheels; from_source in config.yaml names those that are built",
    ),
    (r"--.*|-.*", "options have no meaning here", "take it out"),
)
_LINE_HINT = "a name, with a version where it matters: numpy, pandas>=2.2, uvicorn[standard]"


@dataclass(frozen=True)
class Wanted:
    """One requirement, and where it stands."""

    requirement: Requirement
    where: str
    """As in an error: requirements.txt:3, or config.yaml:12: dependencies[1]."""

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def text(self) -> str:
        """The requirement as PEP 508 has it, with the name normalized: the same for every spelling."""
        extras = f"[{','.join(sorted(map(canonicalize_name, self.requirement.extras)))}]"
        marker = f" ; {self.requirement.marker}" if self.requirement.marker else ""
        return f"{self.name}{extras if self.requirement.extras else ''}{self.requirement.specifier}{marker}"


@dataclass
class Reading:
    """What was read so far, and all that is wrong with it."""

    requirements: list[Wanted] = field(default_factory=list)
    constraints: list[Wanted] = field(default_factory=list)
    problems: list[tuple[str, str | None]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    """The files that were read: none twice."""
    folder: Path = Path()
    """None that lies outside of it is read: a stranger's config must not show this machine's files."""


def read_file(path: Path, reading: Reading, *, constraints: bool = False, named_at: str = "") -> None:
    """Reads the requirements file at `path`, and those that it includes, into `reading`."""
    if not path.resolve().is_relative_to(reading.folder.resolve()):
        what = f"{named_at}{path} leads out of the folder of the config"
        reading.problems.append((what, "keep a copy beside the config"))
        return
    if path.resolve() in reading.files:
        reading.problems.append((f"{named_at}{path} is included more than once", "take one of the lines out"))
        return
    if len(reading.files) == _INCLUDES_LIMIT:
        reading.problems.append((f"{named_at}more than {_INCLUDES_LIMIT} files are included", "join them"))
        return
    reading.files.append(path.resolve())
    try:
        text = _read_text(path)
    except (OSError, ValueError) as error:
        what = (error.strerror if isinstance(error, OSError) else None) or str(error)
        hint = "it is the file that `dependencies` names, or one that it includes"
        reading.problems.append((f"{named_at}{path}: {what}", hint))
        return
    for number, line in _logical_lines(text):
        _read_line(line, path, f"{path}:{number}", reading, constraints=constraints)


def read_requirement(text: str, where: str) -> Wanted | tuple[str, str | None]:
    """The requirement that `text` is, or what is wrong with it, and a hint.

    What is no requirement is not shown: it may be of a file that was never meant to be one.
    """
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        if re.match(r"(git\+|hg\+|svn\+|bzr\+|https?:|file:|ftp:)", text):
            # Not shown: URLs carry passwords.
            return f"{where}: a package from a URL cannot be locked", _WHEELHOUSE_HINT
        if text.startswith(("/", "./", "../", "~")) or text.endswith((".whl", ".tar.gz", ".zip")):
            return f"{where}: a file, which cannot be locked", _WHEELHOUSE_HINT
        if re.search(r"\s--hash\b", text):
            hint = "take the hashes off: the lock file has its own"
            return f"{where}: a requirement with hashes", hint
        return f"{where}: not a requirement", _LINE_HINT
    if requirement.url:
        return (
            f"{where}: {shown(requirement.name)} comes from a URL, which cannot be locked",
            _WHEELHOUSE_HINT,
        )
    return Wanted(requirement, where)


def repeats(wanted: list[Wanted]) -> Iterator[tuple[str, str | None]]:
    """What is asked for twice: the same package, at least once without a marker or with the same one."""
    seen: dict[str, list[Wanted]] = {}
    for one in wanted:
        marker = str(one.requirement.marker or "")
        for other in seen.setdefault(one.name, []):
            others = str(other.requirement.marker or "")
            if "" in (marker, others) or marker == others:
                yield (
                    f"{one.where}: {one.name} is asked for before, at {other.where}",
                    "join the two lines into one, such as pandas[excel]>=2.2,<3",
                )
                break
        seen[one.name].append(one)


def _read_line(line: str, path: Path, where: str, reading: Reading, *, constraints: bool) -> None:
    if include := _INCLUDE.fullmatch(line):
        target = include[2].strip()
        if "://" in target:
            reading.problems.append(
                (f"{where}: a file from a URL cannot be included", "keep a copy beside it")
            )
        else:
            is_constraint = constraints or include[1] is not None
            read_file(path.parent / target, reading, constraints=is_constraint, named_at=f"{where}: ")
        return
    if line.startswith("-"):
        option = re.split(r"[\s=]", line, maxsplit=1)[0]
        what, hint = next((what, hint) for form, what, hint in _OPTIONS if re.fullmatch(form, option))
        # Neither the value, as URLs carry passwords, nor a line that only looks like an option.
        name = "" if (what, hint) == _OPTIONS[-1][1:] else f"{shown(option)}: "
        reading.problems.append((f"{where}: {name}{what}", hint))
        return
    found = read_requirement(line, where)
    if isinstance(found, Wanted):
        (reading.constraints if constraints else reading.requirements).append(found)
    else:
        reading.problems.append(found)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, text) of each line that says something; a backslash at the end joins it with the next one."""
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        if line.endswith("\\") and not _COMMENT.search(line):
            joined += line[:-1]
            continue
        whole = _COMMENT.sub("", joined + line).strip()
        if whole:
            yield first, whole
        joined, first = "", 0
    if joined.strip():
        yield first, joined.strip()


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(_SIZE_LIMIT + 1)
    if len(raw) > _SIZE_LIMIT:
        raise ValueError(f"it is larger than {_SIZE_LIMIT} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from None
    if "\0" in text:
        raise ValueError("it is not a text")
    return text
