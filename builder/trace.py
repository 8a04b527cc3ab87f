"""What code needs beyond the policy: found by running it, explained, and as lines of config.yaml."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from builder.arch import Arch
from builder.config_edit import Allowed, parse_allowed, render_allowed
from builder.errors import printable
from builder.jailrun import Outcome
from builder.seccomp.catalog import load_catalog
from builder.seccomp.diff import OWN, RISKS, UNSAFE, risk
from builder.seccomp.syscalls import number
from builder.status import Denied, Frame

CODE_FILE = "main.py"
"""What the runtime calls the code in a stack."""

Calls = Mapping[str, Any]
"""`calls` of an image's calls.json: by number what each call is named, and the ways to allow it."""


@dataclass(frozen=True)
class Source:
    """The code that is traced, as its user knows it."""

    name: str
    """A path, -c, or -m with the module's name."""
    text: str = ""
    """Its lines, to show the one that led to a call; empty for a module, which is found in the jail."""
    is_module: bool = False


@dataclass(frozen=True)
class Finding:
    """A call beyond the policy, and what it would mean to allow it."""

    call: str
    number: int | None
    alias_of: str | None
    """The call that was seen, where it has another name on the architecture that was asked for."""
    count: int
    where: str | None
    """FILE:LINE that made the first such call; FILE is the traced code's own name, or a path in the jail."""
    led_by: str | None
    """FILE:LINE of the traced code that led there, with its text, where that is another line."""
    allow: str
    """The line of config.yaml, or words where no line allows it."""
    risk: str
    """What opens it: one of builder.seccomp.diff.RISKS."""
    newly_permits: int
    """How many calls the line opens, or opens for more arguments."""
    meaning: str
    """The sentence of risk of what opens it."""
    danger: str
    """Why no program in a sandbox should make the call; empty where some may."""
    passed: bool
    """Whether the code went on as if it were allowed."""


@dataclass(frozen=True)
class Trace:
    """One or several runs of the same code."""

    image: str
    arch: Arch
    traced_on: Arch
    runs: int
    settled: bool | None
    """Whether the last run added nothing; None for a single run, of which that cannot be said."""
    ended: str | None
    """How the last run ended, where that was not exit code 0."""
    whole: bool
    """Whether every denied call of every run is known."""
    findings: tuple[Finding, ...]
    left_out: tuple[str, ...]
    """Calls that were seen and that `arch` does not have."""
    config: Allowed
    """What allows all of it, but for what is dangerous."""
    unsafe: Allowed
    """What allows the dangerous part."""


@dataclass(frozen=True)
class Runs:
    """The union of several runs."""

    outcomes: tuple[Outcome, ...]
    denied: tuple[Denied, ...]
    settled: bool | None


def repeat(run_once: Callable[[], Outcome], most: int) -> Runs:
    """Runs at most `most` times, until a run is denied nothing that was not known before."""
    outcomes: list[Outcome] = []
    denied: dict[tuple[str, str], Denied] = {}
    settled: bool | None = None
    while len(outcomes) < most and not settled:
        outcome = run_once()
        new = [one for one in outcome.denied if (one.call, one.allow) not in denied]
        for one in outcome.denied:
            known = denied.get((one.call, one.allow), one)
            denied[one.call, one.allow] = replace(known, count=max(known.count, one.count))
        settled = not new if outcomes else None
        outcomes.append(outcome)
    return Runs(tuple(outcomes), tuple(denied.values()), settled)


def make_trace(runs: Runs, calls: Calls, source: Source, image: str, arch: Arch, traced_on: Arch) -> Trace:
    """What `runs`, on an image with these calls, come to for `arch`."""
    findings, left_out = [], []
    for one in runs.denied:
        if arch == traced_on:
            findings.append(_finding(one, one.call, one.number, calls, source, arch))
        elif (name := counterpart(one.call, arch)) is not None:
            findings.append(_finding(one, name, number(name, arch), calls, source, arch))
        else:
            left_out.append(one.call)
    findings.sort(key=lambda finding: (RISKS.index(finding.risk), finding.call, finding.allow))
    config, unsafe = _wanted(findings, calls)
    return Trace(
        image=image,
        arch=arch,
        traced_on=traced_on,
        runs=len(runs.outcomes),
        settled=runs.settled,
        ended=describe_end(runs.outcomes[-1]),
        whole=all(outcome.denied_whole for outcome in runs.outcomes),
        findings=tuple(findings),
        left_out=tuple(sorted(set(left_out))),
        config=config,
        unsafe=unsafe,
    )


def counterpart(name: str, arch: Arch) -> str | None:
    """What the call `name` is called on `arch`; None where no call does its work there."""
    for candidate in (name, load_catalog().counterparts.get(name, name)):
        if number(candidate, arch) is not None:
            return candidate
    return None


def describe_end(outcome: Outcome) -> str | None:
    """How a run ended, where that was not exit code 0."""
    if outcome.stopped is not None:
        return {"timeout": "a time-out", "output": "too much output"}[outcome.stopped]
    if outcome.exit_code == 0:
        return None
    try:
        return f"exit code {outcome.exit_code}, as of {signal.Signals(outcome.exit_code - 128).name}"
    except ValueError:
        return f"exit code {outcome.exit_code}"


def render_text(trace: Trace, *, unsafe: bool = False) -> str:
    """The trace for a person: each call beyond the policy, riskiest first, and the lines that allow all.

    Dangerous calls are in those lines only with `unsafe`.
    """
    lines = [_headline(trace)]
    if trace.arch != trace.traced_on:
        lines += [
            f"The code ran on {trace.traced_on.name}, and the names are translated to {trace.arch.name}:",
            "what it does there alone is not seen.",
        ]
    for line in dict.fromkeys(finding.allow for finding in trace.findings):
        lines += ["", *_explained(line, [one for one in trace.findings if one.allow == line])]
    if trace.left_out:
        lines += ["", f"not on {trace.arch.name}: {', '.join(trace.left_out)}"]
    wanted = trace.config | trace.unsafe if unsafe else trace.config
    if wanted:
        lines += ["", "# What allows this, in config.yaml:", render_allowed(wanted).rstrip("\n")]
    if trace.unsafe and not unsafe:
        lines += [f"# Dangerous, and left out: {', '.join(trace.unsafe.unsafe)}; --unsafe adds it"]
    return "".join(f"{line}\n" for line in lines)


def as_data(trace: Trace) -> dict[str, Any]:
    """The trace as JSON has it."""
    return {
        "image": trace.image,
        "arch": trace.arch.name,
        "traced_on": trace.traced_on.name,
        "runs": trace.runs,
        "settled": trace.settled,
        "ended": trace.ended,
        "whole": trace.whole,
        "calls": [asdict(finding) for finding in trace.findings],
        "left_out": list(trace.left_out),
        "config": render_allowed(trace.config),
        "unsafe_config": render_allowed(trace.unsafe),
    }


def _headline(trace: Trace) -> str:
    runs = "1 run" if trace.runs == 1 else f"{trace.runs} runs"
    if trace.settled is not None:
        runs += f", the last of which {'added nothing' if trace.settled else 'still added something'}"
    if not trace.findings:
        return f"Nothing beyond the policy of {trace.image} in {runs}."
    names = len({finding.call for finding in trace.findings})
    what = "1 system call" if names == 1 else f"{names} system calls"
    return f"{what} beyond the policy of {trace.image}, on {trace.arch.name}, in {runs}:"


def _explained(line: str, findings: Sequence[Finding]) -> list[str]:
    """The calls that `line` allows, and what it means to allow them."""
    first = findings[0]
    lines = [line or "no line of config.yaml is known that allows"]
    if first.danger:
        lines.append(f"  WARNING: dangerous, and so denied even while tracing: {first.danger}")
    elif parse_allowed(line):
        opened = "1 call" if first.newly_permits == 1 else f"{first.newly_permits} calls"
        lines.append(f"  newly permits {opened}. {first.meaning}")
    for finding in findings:
        seen = f" (here {finding.alias_of})" if finding.alias_of else ""
        times = "once" if finding.count == 1 else f"{finding.count} times"
        place = f", at {finding.where}" if finding.where else ""
        led_by = f", led there by {finding.led_by}" if finding.led_by else ""
        lines.append(f"    {finding.call}{seen}: {times}{place}{led_by}")
    return lines


def _finding(
    one: Denied, name: str, its_number: int | None, calls: Calls, source: Source, arch: Arch
) -> Finding:
    where, led_by = _places(one, source)
    opened_by = _risk(one)
    return Finding(
        call=name,
        number=its_number,
        alias_of=one.call if name != one.call else None,
        count=one.count,
        where=where,
        led_by=led_by,
        allow=one.allow,
        risk=opened_by,
        newly_permits=len(_opened(one.allow, calls, arch) | {name}),
        meaning=risk(opened_by),
        danger=one.danger,
        passed=one.passed,
    )


def _risk(one: Denied) -> str:
    """What would open the call: one of RISKS."""
    if one.danger:
        return UNSAFE
    allowed = parse_allowed(one.allow) or Allowed()
    groups = ("network",) if allowed.network else allowed.groups
    return next((group for group in groups if group in RISKS), OWN)


def _opened(allow: str, calls: Calls, arch: Arch) -> set[str]:
    """The calls of `arch` that the line `allow` opens, for some arguments at least."""
    names = {str(call["name"]) for call in calls.values() if any(text == allow for text, _ in call["ways"])}
    # Nobody is asked about calls that the closed group answers with ENOSYS: calls.json does not have them.
    catalog = load_catalog()
    fallbacks = {rule.name for rule in catalog.enosys}
    for group in (parse_allowed(allow) or Allowed()).groups:
        names |= {rule.name for rule in catalog.groups[group].rules} & fallbacks
    return {found for name in names if (found := counterpart(name, arch)) is not None}


def _wanted(findings: Iterable[Finding], calls: Calls) -> tuple[Allowed, Allowed]:
    """The fewest lines that allow all findings: those that are not dangerous, and those that are.

    Groups come before single calls, as in each finding. A line is left out where the others allow all its
    calls whatever their arguments.
    """
    safe, unsafe = Allowed(), Allowed()
    wanted: dict[str, set[str]] = {}
    for finding in findings:
        allowed = parse_allowed(finding.allow)
        if allowed is None:
            continue
        if finding.danger:
            unsafe |= allowed
        else:
            wanted.setdefault(finding.allow, set()).add(finding.alias_of or finding.call)
    always = {
        str(call["name"]): {text for text, lines in call["ways"] if not lines} for call in calls.values()
    }
    for line, names in list(wanted.items()):
        others = wanted.keys() - {line}
        if all(always.get(name, set()) & others for name in names):
            del wanted[line]
    for line in wanted:
        safe |= parse_allowed(line) or Allowed()
    return safe, unsafe


def _places(one: Denied, source: Source) -> tuple[str | None, str | None]:
    """Where the call was made, and the line of the code that led there if it is another one."""
    stack = list(one.stack)
    if source.is_module and stack and stack[-1][0] == CODE_FILE:
        stack.pop()  # what runs the module, and is none of the user's
    own = _own_frame(one, stack, source)
    innermost = stack[0] if stack else own
    if innermost is None:
        return None, None
    led_by = _place(own, source) + _quoted_line(own, source) if own and own != innermost else None
    return _place(innermost, source) + (_quoted_line(innermost, source) if not led_by else ""), led_by


def _own_frame(one: Denied, stack: Sequence[Frame], source: Source) -> Frame | None:
    if source.is_module:
        return stack[-1] if len(stack) < len(one.stack) and stack else None
    return (CODE_FILE, one.line) if one.line is not None else None


def _place(frame: Frame, source: Source) -> str:
    path, line = frame
    name = source.name if path == CODE_FILE and not source.is_module else path
    return f"{printable(name)}:{line}"


def _quoted_line(frame: Frame, source: Source) -> str:
    path, line = frame
    lines = source.text.split("\n")
    if path != CODE_FILE or not 0 < line <= len(lines) or not lines[line - 1].strip():
        return ""
    return f": {printable(lines[line - 1].strip())[:80]}"
