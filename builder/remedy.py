"""Why an attempt failed, and the line of config.yaml that mends it. Pure: nothing is run or read."""

from __future__ import annotations

import difflib
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.attempt import Attempt, Raised
from builder.errors import printable

_SHOWN_CHARACTERS = 300
"""So much is shown of one line that a package wrote."""

_DIFF_LINES = 8


@dataclass(frozen=True)
class Context:
    """What a failure is explained with."""

    limits: Mapping[str, Any]
    """Those of runtime.json."""
    timeout_s: float
    """verify.timeout_s."""
    waited_s: float
    """What was waited for an attempt to end."""
    owners: Mapping[str, str]
    """Top-level name -> the distribution that has it."""
    locked: frozenset[str]
    """The distributions that the lock file names."""
    library: Callable[[str], str | None] = lambda _: None
    """What config.yaml needs for a library, given by its soname; None where that is not known."""
    warm: frozenset[str] = frozenset()
    """The modules that a server imports before all runs."""


@dataclass(frozen=True)
class Failure:
    """One promise that does not hold."""

    what: str
    """`import cv2 (opencv-python-headless 5.0.0)`, or which snippet."""
    why: str
    """What was seen, as lines."""
    hint: str
    """What mends it, and how to leave it out."""


def explain_import(
    name: str, distribution: str | None, version: str, attempt: Attempt, context: Context
) -> Failure:
    """Why the module `name` of `distribution` (None: config.yaml asks for it) could not be imported."""
    why, hint = _ended(attempt, context) or _raised(name, distribution, attempt, context)
    asking = "warm" if name in context.warm else "verify.imports"
    of = f" ({distribution} {version})".replace(" )", ")") if distribution else f" ({asking})"
    leave = f"leave it out: verify: {{skip: [{name}]}}"
    if distribution is None or name in context.warm:
        leave = f"take it out of {asking}"
    return Failure(f"import {name}{of}", why, f"{hint}; or {leave}" if hint else leave)


def explain_snippet(number: int, expected: str | None, attempt: Attempt, context: Context) -> Failure:
    """Why snippet `number`, counted from 0, did not do what it should."""
    what = f"verify.snippets[{number}]"
    leave = "mend the snippet, or take it out of verify.snippets"
    if attempt.outcome.stopped is None and attempt.outcome.exit_code == 0:
        diff = _diff(expected or "", attempt.stdout.decode(errors="replace"))
        return Failure(what, f"it printed something else:\n{diff}", leave)
    # An uncaught exception is the last line on stderr, and what else was said comes before it.
    said = [line for line in attempt.stderr.splitlines() if line.strip() and not line.startswith("sandbox: ")]
    kind, _, text = (said or [""])[-1].partition(": ")
    uncaught = attempt.outcome.exit_code == 1 and attempt.outcome.stopped is None and kind.isidentifier()
    name = (re.findall(r"No module named '([\w.]+)'", text) or [""])[0]
    if uncaught:
        attempt = Attempt(attempt.outcome, None, (Raised(kind, text, name),), stderr=attempt.stderr)
        why, hint = _raised("", None, attempt, context)
    else:
        why, hint = _ended(attempt, context) or ("it failed", "")
    return Failure(what, why, f"{hint}; or {leave}" if hint else leave)


def died(attempt: Attempt) -> bool:
    """Whether it ended by what may be an emulator's fault: a signal or a time-out, and no exception."""
    return not attempt.raised and (attempt.outcome.stopped == "timeout" or attempt.outcome.exit_code > 128)


def snippet_holds(expected: str | None, attempt: Attempt) -> bool:
    """Whether a snippet did what it should."""
    good = attempt.outcome.exit_code == 0 and attempt.outcome.stopped is None
    return good and (expected is None or attempt.stdout == expected.encode("utf-8", "surrogateescape"))


def _ended(attempt: Attempt, context: Context) -> tuple[str, str] | None:
    """What is to be said of an attempt that did not come to an exception; None for one that did."""
    outcome = attempt.outcome
    after = " after the import" if attempt.seconds is not None else ""
    if outcome.stopped == "timeout":
        more = f"verify: {{timeout_s: {context.timeout_s * 2:g}}}"
        why = f"it did not end within {context.waited_s:g} s{after}" + _denied_text(attempt)
        return why, _denied_hint(attempt) or more
    if outcome.stopped == "output":
        size = _size(context.limits["output_bytes"])
        return f"it printed more than limits.output, which is {size}", _raise_limit("output_bytes", context)
    if outcome.stopped is not None:
        return "it was interrupted", ""
    if "refused" in outcome.status:
        return f"the jail refused to run it (exit code {outcome.status['refused']})", "docs/exit-codes.md"
    if attempt.raised:
        return None
    return _exited(attempt, after, context)


def _exited(attempt: Attempt, after: str, context: Context) -> tuple[str, str]:
    """The interpreter ended by itself, or was killed."""
    code = attempt.outcome.exit_code
    said = _last_line(attempt.stderr)
    shown = f": {said}" if said else ""
    try:
        killed_by = signal.Signals(code - 128).name if code > 128 else None
    except ValueError:
        killed_by = None
    why = f"it ended the interpreter with exit code {code}{after}{shown}"
    if killed_by is not None:
        why = f"the interpreter crashed{after}, killed by {killed_by}{shown}"
    for pattern, limit in _LIMITS:
        if re.search(pattern, attempt.stderr) and not (limit == "processes" and attempt.outcome.denied):
            return why, _raise_limit(limit, context)
    if hint := _denied_hint(attempt):
        return why + _denied_text(attempt), hint
    if killed_by in ("SIGKILL", "SIGXCPU"):
        return (
            f"it was killed{after} ({killed_by}), as the limit of {context.limits['cpu_s']} s of CPU does",
            _raise_limit("cpu_s", context),
        )
    return why, ""


def _raised(name: str, distribution: str | None, attempt: Attempt, context: Context) -> tuple[str, str]:
    """An exception ended it: the first of `attempt.raised`, and the others are what it was raised from."""
    for one in attempt.raised:
        for pattern, mend in _TEXTS:
            if match := re.search(pattern, f"{one.kind}: {one.text}"):
                return _line_of(one, match), mend(match, distribution, context)
    first = attempt.raised[0]
    for one in attempt.raised:
        if one.kind == "ModuleNotFoundError" and _is_module(one.name):
            return _line_of(one), _missing_module(name, one.name, distribution, context)
    for one in attempt.raised:
        for pattern, limit in _LIMITS:
            match = re.search(pattern, f"{one.kind}: {one.text}")
            # What looks like a limit is a policy, where a thread could not be started for its sake.
            if match and not (limit == "processes" and attempt.outcome.denied):
                return _line_of(one, match), _raise_limit(limit, context)
    why = _line_of(first)
    if first.kind == "SystemExit":
        why = "it ends the program when it is imported (SystemExit)"
    if hint := _denied_hint(attempt):
        return why + _denied_text(attempt), hint
    if any(
        re.search(r"Read-only file system|Permission denied|Operation not permitted", one.text)
        for one in attempt.raised
    ):
        return why, "only the folder in $TMPDIR can be written: point it there, where jail: {env: ...} can"
    return why, ""


_TEXTS: tuple[tuple[str, Callable[[re.Match[str], str | None, Context], str]], ...] = (
    (
        r"(?P<library>[^\s:/]+\.so[^\s:/]*): cannot open shared object file",
        lambda match, _, context: (
            context.library(match["library"])
            or f"{printable(match['library'])} is not in the jail: name the Debian package that has it in "
            "base_packages"
        ),
    ),
    (
        r"version [`'](?P<version>[\w.+-]{1,60})' not found",
        lambda match, distribution, _: (
            f"the base's library has no {match['version']}: take a newer base, or "
            f"an older {distribution or 'version'}"
        ),
    ),
    (
        r"undefined symbol: (?P<symbol>[^\s,]{1,120})",
        lambda match, distribution, _: (
            f"no library in the jail has {printable(match['symbol'])}: "
            f"{distribution or 'it'} was made for other versions than these"
        ),
    ),
)
"""What the dynamic loader says, and what mends it."""

_LIMITS = (
    (
        r"MemoryError|bad_alloc|Cannot allocate memory|failed to map segment|[Uu]nable to allocate|"
        r"[Mm]emory allocation",
        "memory_bytes",
    ),
    (
        r"can't start new thread|pthread_create failed|Resource temporarily unavailable|"
        r"failed to spawn thread",
        "processes",
    ),
    (r"Too many open files", "open_files"),
    (r"File too large", "file_size_bytes"),
    (r"No space left on device", "scratch_bytes"),
)
"""What a program says that has met a limit, and which of runtime.json it is."""


def _raise_limit(limit: str, context: Context) -> str:
    # Each thread reserves address space for its stack and its memory, and says the same when there is none.
    limits = (limit, "memory_bytes") if limit == "processes" else (limit,)
    doubled = (
        f"{one.removesuffix('_bytes')}: {_size(now * 2) if one.endswith('_bytes') else now * 2}"
        for one in limits
        if (now := int(context.limits[one]))
    )
    return f"limits: {{{', '.join(doubled)}}}"


def _size(size: int) -> str:
    """As config.yaml writes it."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


def _missing_module(name: str, missing: str, distribution: str | None, context: Context) -> str:
    """What to do about the module `missing`, which `name` wants."""
    top = missing.partition(".")[0]
    if (owner := context.owners.get(top)) and missing != name:
        return f"{missing} is left out of the jail: keep_whole: [{owner}]"
    if missing == name:
        return "" if distribution else f"add the package that has {name} to dependencies"
    if top in sys.stdlib_module_names:
        return f"{missing} is of Python's own library, which the jail has without it"
    if distribution is not None and distribution not in context.locked:
        return f"add the Debian package of Python's {top} to base_packages"
    return f"add {top} to dependencies, or the package that has it"


def _is_module(name: str) -> bool:
    return len(name) <= 200 and all(part.isidentifier() for part in name.split("."))


def _denied_text(attempt: Attempt) -> str:
    calls = list(dict.fromkeys(one.call for one in attempt.outcome.denied))
    return f"; denied: {', '.join(calls[:5])}" if calls else ""


def _denied_hint(attempt: Attempt) -> str:
    """The lines that allow what was denied."""
    return " and ".join(dict.fromkeys(one.allow for one in attempt.outcome.denied[:5] if one.allow))


def _line_of(raised: Raised, match: re.Match[str] | None = None) -> str:
    """The exception in one line: the one that says it, where the text has many."""
    text = f"{raised.kind}: {raised.text}" if raised.text else raised.kind
    if match is not None:
        start = text.rfind("\n", 0, match.start()) + 1
        line = text[start:].partition("\n")[0]
        if start and not line.startswith(raised.kind):
            line = f"{raised.kind}: {line.strip()}"
    else:
        lines = [one.strip() for one in raised.text.splitlines() if one.strip()]
        line = f"{raised.kind}: {lines[0]}" if lines else raised.kind
    return _shown(line)


def _last_line(text: str) -> str:
    lines = [one.strip() for one in text.splitlines() if one.strip() and not one.startswith("sandbox: ")]
    return _shown(lines[-1]) if lines else ""


def _diff(expected: str, printed: str) -> str:
    """The first lines of what is different."""
    lines = difflib.unified_diff(
        expected.splitlines(), printed.splitlines(), "expected", "printed", n=1, lineterm=""
    )
    # Whatever is no line of either: a newline at the end, for one.
    shown = [_shown(line) for line in lines] or [_shown(f"-{expected!r}"), _shown(f"+{printed!r}")]
    more = [f"and {len(shown) - _DIFF_LINES} lines more"] if len(shown) > _DIFF_LINES else []
    return "\n".join([*shown[:_DIFF_LINES], *more])


def _shown(line: str) -> str:
    line = printable(line)
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}..."


def render(failures: Sequence[Failure], most: int) -> str:
    """The failures as lines, at most `most` of them in full."""
    lines = []
    for one in failures[:most]:
        first, *rest = one.why.splitlines()
        lines += [f"  {one.what}: {first}", *(f"    {line}" for line in rest), f"    hint: {one.hint}"]
    if len(failures) > most:
        names = ", ".join(one.what for one in failures[most:])
        lines.append(f"  and {len(failures) - most} more: {names[:_SHOWN_CHARACTERS]}")
    return "\n".join(lines)
