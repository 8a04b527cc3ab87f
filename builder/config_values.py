"""The grammar of single values in config.yaml: text in, value out, or an error with what is allowed.

Every check raises what pydantic collects (a ValueError), so that all problems of a file show at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

from builder.errors import UsageError
from builder.reference import DIGEST, MAX_LENGTH, NAME, TAG, parse_reference

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PRINTABLE = "write a path of printable characters"


def wrong(what: str, hint: str) -> PydanticCustomError:
    """The error that says `what` is wrong, and in `hint` what would be right."""
    return PydanticCustomError("config", "{what}", {"what": what, "hint": hint})


def shown(value: object) -> str:
    """`value` for a message: quoted, printable whatever it holds, and short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Numbers with a unit

_SIZE = re.compile(r"(\d{1,15})\s*(?:([kmgt])i?b?|b)?", re.IGNORECASE)
_SIZE_HINT = "a number of bytes, or a whole number with a unit: 512KiB, 64MiB, 1GiB (64M means 64MiB)"
_SIZE_LIMIT = 1 << 50


def size_bytes(value: object) -> int:
    """Bytes in 1073741824, "1GiB", "512MiB" or "64M" (which means 64MiB, as Docker and systemd read it)."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise wrong(f"{shown(value)} is not a size", _SIZE_HINT)
        number, prefix = match.groups()
        if prefix and re.search(r"[kmgt]b$", match[0], re.IGNORECASE):
            # 1000 or 1024? Both are in use, and a limit is no place to guess.
            clear = f"{number}{prefix.upper()}iB"
            raise wrong(f"{shown(value)} may mean two things", f"write {clear}, or the number of bytes")
        size = int(number) << (10 * ("KMGT".index(prefix.upper()) + 1) if prefix else 0)
    if not 0 <= size < _SIZE_LIMIT:
        raise wrong(f"{shown(value)} is out of range", "a size is at least 0 and below 1024TiB")
    return size


_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_DURATION_LIMIT_S = 2**63 / 1e9


def duration_s(value: object) -> float:
    """Seconds in a duration as Go writes it: "30m", "1h30m", "90s", "1.5h"."""
    text = value if isinstance(value, str) else ""
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise wrong(f"{shown(value)} is not a duration", "numbers with units, such as 30m, 1h30m or 90s")
    seconds = math.fsum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)
    if not 0 < seconds < _DURATION_LIMIT_S:
        raise wrong(f"{shown(value)} is out of range", "a duration is more than 0 and less than 292 years")
    return seconds


def duration_text(seconds: float) -> str:
    """What `duration_s` reads back as `seconds`."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


# Paths and URLs


def absolute_path(text: str) -> str:
    """`text` as a normal absolute path: no "..", no "." and no doubled or trailing slash."""
    if not text.startswith("/"):
        raise wrong(
            f"{shown(text)} is not an absolute path", "write the path as it is in the base, from / on"
        )
    if _CONTROL.search(text):
        raise wrong(f"{shown(text)} has a control character in it", _PRINTABLE)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise wrong(f"{shown(text)} climbs with ..", "write the path that is meant, without ..")
    if not parts:
        raise wrong(f"{shown(text)} is the whole file system", "name the folders and files that are needed")
    return "/" + "/".join(parts)


def plain_path(text: str) -> str:
    """`text` as it is, absolute or relative; never with a control character."""
    if _CONTROL.search(text):
        raise wrong(f"{shown(text)} has a control character in it", _PRINTABLE)
    return text


def url(text: str, schemes: Collection[str]) -> str:
    """`text` as it is, when it is a URL with one of `schemes` and, save for files, a host."""
    allowed = ", ".join(f"{scheme}://" for scheme in schemes)
    hint = f"a URL that starts with {allowed}"
    if _CONTROL.search(text) or " " in text:
        raise wrong("a URL has no spaces and no control characters", hint)
    try:
        parts = urlsplit(text)
        placed = parts.port != 0 and bool(parts.path if parts.scheme in ("file", "copy") else parts.hostname)
    except ValueError:  # a port that is no number, an IPv6 address with one bracket
        placed = False
    if not placed or parts.scheme not in schemes:
        # The text itself is not shown: URLs carry passwords, and messages end up in logs.
        raise wrong("this is not a URL that can be used here", hint)
    return text


def index_url(text: str) -> str:
    """The URL of a package index."""
    return url(text, ("https", "http", "file"))


def mirror_url(text: str) -> str:
    """The URL of a mirror of Debian's archive, of a kind that apt reads without a plug-in."""
    return url(text, ("https", "http", "file", "copy"))


def command_word(text: str) -> str:
    """One word of a command line, handed over as it is: no shell reads it."""
    if not text or not text.isprintable():
        raise wrong("a word of a command cannot be empty or hold control characters", "one word an entry")
    return text


def proxy_url(text: str) -> str:
    """A proxy; HOST:PORT without a scheme is common in HTTP_PROXY and means http, as curl has it."""
    url(text if "://" in text else f"http://{text}", ("http", "https", "socks5", "socks5h"))
    return text


def socks_url(text: str) -> str:
    """A SOCKS 5 proxy; socks5h has the proxy resolve names."""
    return url(text, ("socks5", "socks5h"))


# Images


def repository(text: str) -> str:
    """`text` as it is, when it names a repository, with or without a registry before it."""
    if len(text) > MAX_LENGTH or not NAME.fullmatch(text):
        name, _, version = text[:512].rpartition(":")
        hint = "lower-case letters and digits, parted by . _ - or /, such as team/sandbox-python"
        if NAME.fullmatch(name) and TAG.fullmatch(version):
            hint = f"write {name} here, and {version} as the tag"
        raise wrong(f"{shown(text)} is not the name of an image repository", hint)
    return text


def tag(text: str) -> str:
    """`text` as it is, when an image can be tagged with it."""
    if not TAG.fullmatch(text):
        raise wrong(
            f"{shown(text)} is not a tag", "at most 128 letters, digits, _ . and -, none of . and - first"
        )
    return text


def image_reference(text: str) -> str:
    """`text` as it is, when it is NAME[:TAG][@DIGEST]."""
    rest, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise wrong(f"{shown(text)} has no valid digest after the @", "sha256: and 64 hexadecimal digits")
    try:
        parse_reference(rest)
    except UsageError as error:
        raise wrong(f"{shown(text)} is not an image reference", error.hint or "") from None
    return text


def _hint(error: PydanticCustomError) -> str:
    return str((error.context or {})["hint"])


@dataclass(frozen=True)
class Base:
    """Where the target's root filesystem comes from."""

    kind: Literal["debian", "image", "host"]
    name: str
    """The suite, the image reference, or "host"."""


_SUITE = re.compile(r"[a-z]+")


def parse_base(text: str) -> Base:
    """The base that `text` names; ValueError for a text that names none."""
    if text == "host":
        return Base("host", "host")
    name, colon, suite = text.partition(":")
    if name == "debian":
        if not colon or not _SUITE.fullmatch(suite):
            hint = f"packages come from a suite: debian:trixie; the image is called library/{text[:60]}"
            raise wrong(f"{shown(text)} names no suite of Debian", hint)
        return Base("debian", suite)
    try:
        image_reference(text)
    except PydanticCustomError as error:
        what = f"{shown(text)} is none of debian:SUITE, host and an image reference"
        raise wrong(what, _hint(error)) from None
    return Base("image", text)


def base(text: str) -> str:
    """`text` as it is, when `parse_base` understands it."""
    parse_base(text)
    return text


# Names

_SYSCALL = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_SYSCALL_LIMIT = 1024
_SYSCALL_HINT = "write the lower-case name of `man 2 syscalls`, such as mbind"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?")
_GROUP = re.compile(r"[a-z][a-z0-9_-]*")


def syscall_name(value: object) -> str:
    """The name of a system call, by its form; whether there is one of that name the policy knows."""
    if _is_number(value):
        raise wrong(f"{shown(value)} is a number", f"numbers differ between architectures: {_SYSCALL_HINT}")
    if not isinstance(value, str) or not _SYSCALL.fullmatch(value):
        hint = _SYSCALL_HINT
        if isinstance(value, str) and _SYSCALL.fullmatch(value.strip().lower()):
            hint = f"did you mean {value.strip().lower()}?"
        raise wrong(f"{shown(value)} is not the name of a system call", hint)
    return value


def syscall_name_or_number(value: object) -> int | str:
    """A member of dify-sandbox's allowed_syscalls: a number of the table, or a name."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < _SYSCALL_LIMIT:
            raise wrong(f"there is no system call {shown(value)}", f"a number from 0 to {_SYSCALL_LIMIT - 1}")
        return value
    if _is_number(value):
        raise wrong(f"{shown(value)} is a number in quotes", "take the quotes off, or write the call's name")
    return syscall_name(value)


def _is_number(value: object) -> bool:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return re.fullmatch(r"\s*[+-]?\d+\s*", text) is not None


_ENTRY_HINT = "write {NAME: {when: [CONDITION, ...]}}, such as {ioctl: {when: [request == 0x5413]}}"


def syscall_entry(value: object) -> str | dict[str, dict[str, list[str]]]:
    """A member of syscalls.allow or syscalls.deny: a name, or a name with conditions, by their form."""
    if not isinstance(value, dict):
        return syscall_name(value)
    if len(value) != 1:
        # Two names under one dash, or `when` one step too far to the left.
        raise wrong("a call with conditions is one name with `when` below it", _ENTRY_HINT)
    ((key, spec),) = value.items()
    name = syscall_name(key)
    if not isinstance(spec, dict) or set(spec) != {"when"}:
        raise wrong(f"{name} has no conditions in `when`", f"{_ENTRY_HINT}; or the name alone")
    when = spec["when"]
    if isinstance(when, str):
        raise wrong(f"{name}: `when` is a list of conditions", "put [ and ] around it")
    if not isinstance(when, list) or not when:
        raise wrong(f"{name}: `when` is empty", "write a condition, or the name alone: it means always")
    for condition in when:
        if not isinstance(condition, str):
            raise wrong(f"{name}: {shown(condition)} in `when` is not a condition", _ENTRY_HINT)
    return {name: {"when": list(when)}}


def group_name(text: str) -> str:
    """The name of a group of system calls, by its form."""
    if not _GROUP.fullmatch(text):
        raise wrong(f"{shown(text)} is not the name of a group", "a name out of images/python/seccomp.yaml")
    return text


def variable_name(text: str) -> str:
    """A name that an environment variable can have."""
    if not _VARIABLE.fullmatch(text):
        raise wrong(f"{shown(text)} is not the name of a variable", "letters, digits and _, no digit first")
    return text


def variable_value(text: str) -> str:
    """A value that an environment variable can have."""
    if "\0" in text:
        raise wrong("the value has a NUL character in it", "the environment cannot hold one: take it out")
    return text


def label_key(text: str) -> str:
    """A key that a label of an image can have."""
    if len(text) > 255 or not LABEL_NAME.fullmatch(text):
        raise wrong(
            f"{shown(text)} is not the key of a label",
            "letters, digits, and . _ - / between them, such as org.opencontainers.image.source",
        )
    return text


def label_value(text: str) -> str:
    """A value that can be written into one line of a Dockerfile."""
    if not text.isprintable():
        raise wrong(f"{shown(text)} has a control character in it", "a label is one line of text")
    return text


_FIRST_UID = 1000
_UID_LIMIT = 1 << 31
_LEAST_UIDS = 3
"""The first is the interpreter's that warm runs are forked from, the second ends them, the rest is theirs."""


def uid_range(value: object) -> tuple[int, int]:
    """[FIRST, COUNT] of user ids: none of a system account, none beyond 31 bits, enough to serve."""
    first, count = any_uid_range(value)
    if count < _LEAST_UIDS:
        hint = "two of them are for what starts and ends runs, all others for the runs themselves"
        raise wrong(f"{shown([first, count])} has less than {_LEAST_UIDS} user ids", hint)
    return first, count


def any_uid_range(value: object) -> tuple[int, int]:
    """The same, for whoever serves nothing: one id suffices."""
    hint = f"[FIRST, COUNT] such as [10000, 50000]; FIRST is at least {_FIRST_UID}, the last id is below 2^31"
    if not isinstance(value, list | tuple) or [type(number) for number in value] != [int, int]:
        raise wrong("a list of two whole numbers is needed", hint)
    first, count = value
    if first < _FIRST_UID or count < 1 or first + count > _UID_LIMIT:
        raise wrong(f"{shown([first, count])} is out of range", hint)
    return first, count
