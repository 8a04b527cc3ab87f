"""Groups of the catalog and names of config.yaml come to one policy; every mistake is told at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from builder.errors import ConfigError
from builder.seccomp.catalog import Catalog, Line, Rule, load_catalog
from builder.seccomp.syscalls import known_names

Problems = list[tuple[str, int, str, str | None]]
"""(groups, allow or deny; index in that list; what is wrong; hint)."""


@dataclass(frozen=True)
class Granted:
    """One call that one source allows; several may allow the same call, each with its own conditions."""

    source: str
    """A group's name, or syscalls.allow."""
    rule: Rule


@dataclass(frozen=True)
class Policy:
    """What each call is answered with, on any architecture. A call that stands nowhere here gets EPERM."""

    groups: tuple[str, ...]
    """The groups in force, in the catalog's order."""
    allow: tuple[Granted, ...]
    denied: tuple[str, ...]
    """What syscalls.deny took out again."""
    enosys: tuple[Rule, ...]
    kill: tuple[Rule, ...]

    def allowed(self) -> dict[str, tuple[Line, ...]]:
        """Each allowed call by name, sorted; the lines of which one must hold, none where it always is."""
        lines: dict[str, tuple[Line, ...]] = {}
        for name in sorted({granted.rule.name for granted in self.allow}):
            rules = [granted.rule for granted in self.allow if granted.rule.name == name]
            whole = any(not rule.when for rule in rules)
            lines[name] = () if whole else tuple(dict.fromkeys(line for rule in rules for line in rule.when))
        return lines


def effective_policy(groups: Iterable[str], allow: Sequence[str] = (), deny: Sequence[str] = ()) -> Policy:
    """The policy of these groups, with the calls in `allow` and without those in `deny`.

    A name in `allow` opens what all groups together would open of that call, with their conditions: so
    `socket` is TCP and UDP, and `clone` never a new namespace. One that no group has is opened whole.
    ConfigError, with every problem, for unknown groups and calls, for a call in both lists, and for what is
    never opened. ToolMissing without libseccomp, whose tables say which calls there are.
    """
    catalog = load_catalog()
    groups = tuple(groups)
    if problems := policy_problems(groups, allow, deny):
        raise ConfigError([(f"syscalls.{key}[{index}]: {what}", hint) for key, index, what, hint in problems])
    in_force = tuple(name for name in catalog.groups if name in groups)
    granted = [Granted(name, rule) for name in in_force for rule in catalog.groups[name].rules]
    for name in sorted(set(allow)):
        rules = catalog.rules_for(name) or (Rule(name, "named in the config"),)
        granted += [Granted("syscalls.allow", rule) for rule in rules]
    return Policy(
        groups=in_force,
        allow=tuple(one for one in granted if one.rule.name not in deny),
        denied=tuple(sorted(set(deny))),
        enosys=tuple(rule for rule in catalog.enosys if rule.name not in allow),
        kill=catalog.kill,
    )


def for_landlock(policy: Policy) -> Policy:
    """`policy` for a run that only Landlock confines: less the calls that it does not govern."""
    passed_by = load_catalog().landlock
    return replace(
        policy,
        allow=tuple(one for one in policy.allow if one.rule.name not in passed_by),
        denied=tuple(sorted({*policy.denied, *passed_by})),
    )


def policy_problems(groups: Sequence[str], allow: Sequence[str], deny: Sequence[str]) -> Problems:
    """Everything that effective_policy refuses."""
    catalog = load_catalog()
    return _group_problems(groups, catalog) + _call_problems(allow, deny, catalog)


def _group_problems(groups: Sequence[str], catalog: Catalog) -> Problems:
    return [
        (
            "groups",
            index,
            f"no group named {_quoted(name)}",
            _meant(name, catalog.groups) or f"the groups are {', '.join(catalog.groups)}",
        )
        for index, name in enumerate(groups)
        if name not in catalog.groups
    ]


def _call_problems(allow: Sequence[str], deny: Sequence[str], catalog: Catalog) -> Problems:
    killed = {rule.name: rule.reason for rule in catalog.kill}
    problems: Problems = []
    for key, names in (("allow", allow), ("deny", deny)):
        for index, name in enumerate(names):
            if name not in known_names():
                problems.append(
                    (
                        key,
                        index,
                        f"no system call named {_quoted(name)} on amd64 or arm64",
                        "give the name of the call: its number is another one on each architecture"
                        if name.lstrip("-").isdecimal()
                        else _meant(name, known_names()),
                    )
                )
            elif key == "allow" and name in killed:
                hint = f"only an attack makes this call ({killed[name]}): it ends the run"
                problems.append((key, index, f'"{name}" cannot be allowed', hint))
            elif key == "allow" and name in catalog.refused:
                hint = f"{_reason(name, catalog)}: nothing opens this call to the code"
                problems.append((key, index, f'"{name}" cannot be allowed', hint))
            elif key == "deny" and name in allow:
                other = f"syscalls.allow[{allow.index(name)}]"
                hint = "take it out of one of the two"
                problems.append((key, index, f'"{name}" is in {other} too', hint))
    return problems


def _reason(name: str, catalog: Catalog) -> str:
    """Why `name` is refused, where the file says "as OTHER" with OTHER's reason."""
    reason = catalog.refused[name]
    return _reason(reason.removeprefix("as "), catalog) if reason.startswith("as ") else reason


def _meant(name: str, candidates: Iterable[str]) -> str | None:
    close = get_close_matches(name.lower(), sorted(candidates), n=1, cutoff=0.7)
    return f'did you mean "{close[0]}"?' if close else None


def _quoted(name: str) -> str:
    return '"' + name.encode("unicode_escape").decode().replace('"', '\\"')[:80] + '"'
