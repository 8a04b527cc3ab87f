"""What a run's supervisor says of each denied call: its name, and a remedy that allows it.

The remedies are followed to the letter: into the config, and from it into a filter again.
"""

import json
import random
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.arch import ARCHES, Arch
from builder.config import load_config
from builder.errors import ConfigError
from builder.plan import policy_request
from builder.seccomp import Policy, compile_policy, effective_policy
from builder.seccomp.bpf import ALLOW, USER_NOTIF, evaluate
from builder.seccomp.catalog import Line, load_catalog
from builder.seccomp.check import near_misses
from builder.seccomp.compile import named
from builder.seccomp.naming import calls
from builder.seccomp.policy import for_landlock
from builder.seccomp.syscalls import known_names, number, table
from runtime.remedy import kept, probed, way

CHANNEL = 1024
CATALOG = load_catalog()
LEVELS = ("chroot", "landlock")
OPEN_AT_CHROOT = "nothing allows it at level landlock, whose rules it passes by: jail: {level: chroot}"
OUT_OF_DENY = " out of syscalls.deny"
NETWORK_TOO = "enable_network: true and "
UNLISTED_TOO = "network: {allow: []} and "
TRIED = 4
"""How many conditions that tell the arguments of one call are tried of each call; there is one for each."""

Config = dict[str, Any]
CONFIGS: dict[str, Config] = {
    "default": {},
    "core": {"syscalls": {"replace": True, "groups": ["core"]}},
    "without-core": {"syscalls": {"replace": True, "groups": ["files", "memfd"]}},
    "every-group": {
        "enable_network": True,
        "syscalls": {"groups": [name for name in CATALOG.groups if name != "network"]},
    },
    "client": {"enable_network": True, "network": {"allow": ["example.com:443"]}},
    "edited": {
        "allowed_syscalls": [41, 203, "tee"],
        "syscalls": {
            "replace": True,
            "groups": ["core"],
            "allow": [
                {"mlock": {"when": ["arg1 == 4096"]}},
                {"openat2": {"when": ["arg3 == 24"]}},
                {"truncate": {"when": ["arg1 & 0xfff == 0"]}},
                "chmod",
                {"socket": {"when": ["family == AF_UNIX and type == 1"]}},
            ],
            "deny": [
                *("uname", "utimes", "kill"),
                {"madvise": {"when": ["advice == MADV_HUGEPAGE", "advice == MADV_FREE"]}},
                {"fcntl": {"when": ["cmd == F_SETFL", "cmd & 0xfe == 0x0a"]}},
            ],
            "unsafe": ["ptrace", "chroot"],
        },
    },
}

both_arches = pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


class Image:
    """What a config comes to."""

    def __init__(self, config: Config, arch: Arch, folder: Path) -> None:
        path = folder / "config.yaml"
        path.write_text(json.dumps(config))
        self.policy: Policy = effective_policy(policy_request(load_config(path, {})[0]), arch)
        self.arch = arch
        self.programs: dict[str, bytes] = {}

    @cached_property
    def calls(self) -> dict[str, Any]:
        """As the supervisor reads them."""
        return dict(json.loads(json.dumps(calls(self.policy, self.arch))))

    def answer(self, level: str, call: int, arguments: Sequence[int]) -> int:
        if level not in self.programs:
            policy = self.policy if level == "chroot" else for_landlock(self.policy)
            self.programs[level] = named(compile_policy(policy, self.arch), self.arch, CHANNEL)
        return evaluate(self.programs[level], self.arch.audit_arch, call, arguments)

    def remedy(self, call: int, arguments: Sequence[int]) -> str:
        told = self.calls[str(call)]
        return kept(told, [*arguments]) or way(told, [*arguments])


def interesting(name: str, policy: Policy) -> Iterator[list[int]]:
    """Arguments on both sides of every condition that anybody has for the call `name`."""
    rules = [*CATALOG.rules_for(name), *(rule for rule in CATALOG.guarded if rule.name == name)]
    lines: list[Line] = [line for rule in rules for line in rule.when]
    lines += policy.allowed().get(name, ())
    lines += [line for call in policy.restricted if call.name == name for line in call.lines]
    yield from near_misses([line.conditions for line in lines])


def denied(image: Image, level: str) -> Iterator[tuple[int, str, list[int]]]:
    """(number, name, arguments) of each call of the table that is denied."""
    for call, name in table(image.arch).items():
        for arguments in interesting(name, image.policy):
            if image.answer(level, call, arguments) == USER_NOTIF:
                yield call, name, arguments


def followed(config: Config, name: str, remedy: str) -> Config:
    """`config` with what `remedy` says of the call `name` done to it, and nothing else."""
    new = deepcopy(config)
    syscalls = new.setdefault("syscalls", {})
    if remedy == f"take it{OUT_OF_DENY}":
        syscalls["deny"] = [entry for entry in syscalls["deny"] if entry != name and [*entry] != [name]]
    elif remedy.endswith(OUT_OF_DENY):
        condition = json.loads(remedy.removeprefix("take ").removesuffix(OUT_OF_DENY))
        (entry,) = (entry for entry in syscalls["deny"] if isinstance(entry, dict) and name in entry)
        entry[name]["when"].remove(condition)
        if not entry[name]["when"]:
            syscalls["deny"].remove(entry)
    else:
        if remedy.startswith(NETWORK_TOO):
            new["enable_network"] = True
        if remedy.startswith(UNLISTED_TOO):
            new["network"] = {"allow": []}
        more = yaml.safe_load(alone(remedy))
        for key, entries in more.pop("syscalls", {}).items():
            syscalls[key] = [*syscalls.get(key, []), *entries]
        new |= more
    assert new != config, remedy
    return new


def alone(remedy: str) -> str:
    """The part of a remedy that is about `syscalls`, where it has two."""
    return remedy.removeprefix(NETWORK_TOO).removeprefix(UNLISTED_TOO)


class Followed:
    """The images of one config after one remedy, each made once."""

    def __init__(self, config: Config, arch: Arch, folder: Path) -> None:
        self.config, self.arch, self.folder = config, arch, folder
        self.image = Image(config, arch, folder)
        self.made: dict[tuple[str, str], Followed] = {}

    def after(self, name: str, remedy: str) -> "Followed":
        key = (name if OUT_OF_DENY in remedy else "", remedy)
        if key not in self.made:
            self.made[key] = Followed(followed(self.config, name, remedy), self.arch, self.folder)
        return self.made[key]


def steps(start: Followed, level: str, call: int, name: str, arguments: Sequence[int]) -> list[str]:
    """The remedies that the call is told, one after the other, until it is allowed or none is left to do."""
    told: list[str] = []
    at = start
    while at.image.answer(level, call, arguments) == USER_NOTIF:
        told.append(at.image.remedy(call, arguments))
        if told[-1] in ("", OPEN_AT_CHROOT) or told[-1].startswith("nothing "):
            return told
        assert len(told) < 4, told
        at = at.after(name, told[-1])
    assert at.image.answer(level, call, arguments) == ALLOW, told
    return told


@both_arches
@every_config
def test_every_denied_call_has_a_name_and_a_remedy(config: Config, arch: Arch, tmp_path: Path) -> None:
    """At each level, whatever the arguments; a dangerous one has a reason besides. No other call is there."""
    image = Image(config, arch, tmp_path)
    seen = set()
    for level in LEVELS:
        for call, name, arguments in denied(image, level):
            entry = image.calls[str(call)]
            assert entry["name"] == name
            assert image.remedy(call, arguments), (name, arguments)
            assert entry.get("danger") == CATALOG.danger(name)
            seen.add(str(call))
    assert seen == image.calls.keys()
    assert len(seen) > 100


@both_arches
@every_config
def test_each_remedy_mends(config: Config, arch: Arch, tmp_path: Path) -> None:
    """Done to the config to the letter, it allows the call with just these arguments.

    With a second one only where syscalls.deny was in the way.
    """
    start = Followed(config, arch, tmp_path)
    tried: dict[str, set[str]] = {}
    for call, name, arguments in denied(start.image, "chroot"):
        remedy = start.image.remedy(call, arguments)
        exact = tried.setdefault(name, set())
        if "{when:" in remedy:
            assert holds(name, remedy, arguments), (name, arguments, remedy)
            if remedy not in exact and len(exact) == TRIED:
                continue
            exact.add(remedy)
        *before, last = steps(start, "chroot", call, name, arguments)
        assert all(one.endswith(OUT_OF_DENY) for one in before), (name, arguments, before, last)
        if last.startswith("nothing allows it: "):
            assert before == []
            (guard,) = (rule for rule in CATALOG.guarded if rule.name == name)
            assert any(line.holds(arguments) for line in guard.when)
        assert last not in ("", OPEN_AT_CHROOT), (name, arguments)


@both_arches
@every_config
def test_remedies_at_landlock(config: Config, arch: Arch, tmp_path: Path) -> None:
    """What is closed there alone says so; what else is in the way comes first, and helps at chroot."""
    start = Followed(config, arch, tmp_path)
    for call, name, arguments in denied(start.image, "landlock"):
        if name not in CATALOG.landlock:
            assert start.image.answer("chroot", call, arguments) == USER_NOTIF
            continue
        *before, last = steps(start, "landlock", call, name, arguments)
        assert last == OPEN_AT_CHROOT, (name, arguments)
        assert steps(start, "chroot", call, name, arguments) == before


def holds(name: str, remedy: str, arguments: Sequence[int]) -> bool:
    """Whether the one condition in `remedy` is one that these arguments meet."""
    data = yaml.safe_load(alone(remedy))
    ((entry,),) = data["syscalls"].values()
    ((called, spec),) = entry.items()
    (text,) = spec["when"]
    return called == name and CATALOG.line(name, text).holds(arguments)


@both_arches
def test_what_nothing_allows_is_allowed_by_nothing(arch: Arch, tmp_path: Path) -> None:
    """Neither by all groups with the call's name, nor by a condition that says just this, nor by unsafe."""
    names = [rule.name for rule in CATALOG.guarded]
    wide = deepcopy(CONFIGS["every-group"])
    wide["syscalls"] |= {"allow": names}
    image = Image(wide, arch, tmp_path)
    for rule in CATALOG.guarded:
        call = number(rule.name, arch)
        assert call is not None
        shut = [one for one in interesting(rule.name, image.policy) if any(_.holds(one) for _ in rule.when)]
        for arguments in shut:
            assert image.remedy(call, arguments) == f"nothing allows it: {rule.reason}"
            assert image.answer("chroot", call, arguments) == USER_NOTIF
        for arguments in shut[:TRIED]:
            (at,) = {condition.argument for line in rule.when for condition in line.conditions}
            condition = f"arg{at} == {arguments[at] & 0xFFFF_FFFF}"
            with pytest.raises(ConfigError, match=f"this would open {rule.name} with "):
                Image({"syscalls": {"allow": [{rule.name: {"when": [condition]}}]}}, arch, tmp_path)
        with pytest.raises(ConfigError, match="is not dangerous"):
            Image({"syscalls": {"unsafe": [rule.name]}}, arch, tmp_path)


@both_arches
def test_a_dangerous_call_needs_unsafe(arch: Arch, tmp_path: Path) -> None:
    """Nothing else is named, and with nothing else is it let through: every refused call of the table."""
    image = Image({}, arch, tmp_path)
    open_all = Image(CONFIGS["every-group"], arch, tmp_path)
    names = [name for name in CATALOG.refused if number(name, arch) is not None]
    named = {entry["name"]: entry for entry in image.calls.values()}
    asked = [name for name in names if name in named]
    assert {*names} - {*asked} == {rule.name for rule in image.policy.enosys} & {*names}
    for name in asked:
        assert named[name]["ways"] == [[f"syscalls: {{unsafe: [{name}]}}", []]]
        assert named[name]["danger"] == CATALOG.danger(name)
        assert open_all.answer("chroot", number(name, arch) or 0, [0] * 6) == USER_NOTIF
    assert not any(entry.get("danger") for name, entry in named.items() if name not in CATALOG.refused)


@both_arches
def test_the_smallest_group_is_named(arch: Arch, tmp_path: Path) -> None:
    """Of the groups that open a call, the one with the fewest calls: least is opened besides."""
    image = Image({"syscalls": {"replace": True, "groups": ["exec"]}}, arch, tmp_path)
    several = 0
    for call, name, arguments in denied(image, "chroot"):
        sizes = {
            group.name: len(group.rules)
            for group in CATALOG.groups.values()
            if group.name != "network_client"  # only ever there in place of `network`
            for rule in group.rules
            if rule.name == name and (not rule.when or any(line.holds(arguments) for line in rule.when))
        }
        if sizes and not image.remedy(call, arguments).startswith("nothing "):
            least = min(sizes, key=lambda group: sizes[group])
            wanted = f"syscalls: {{groups: [{least}]}}" if least != "network" else "enable_network: true"
            assert image.remedy(call, arguments) == wanted
            several += len(sizes) > 1
    assert several > 10


@both_arches
def test_no_remedy_depends_on_a_pointer(arch: Arch, tmp_path: Path) -> None:
    """Addresses are others in each run: a remedy with one would mend that run alone, and none be traced."""
    image = Image(CONFIGS["core"], arch, tmp_path)
    chance = random.Random(1)
    pointers = {
        name: {
            condition.argument
            for rule in CATALOG.rules_for(name)
            for line in rule.when
            for condition in line.conditions
            if condition.mask > 0xFFFF_FFFF
        }
        for name in known_names()
    }
    seen = set()
    for call, name, arguments in denied(image, "chroot"):
        if pointers[name] and any(arguments[at] for at in pointers[name]):
            remedies = set()
            for _ in range(4):
                for at in pointers[name]:
                    arguments[at] = chance.randrange(1 << 12, 1 << 47, 16)
                remedies.add(image.remedy(call, arguments))
            assert len(remedies) == 1
            seen.add(name)
    assert seen == {"prlimit64", "sendto"}


def test_a_local_socket_needs_no_network(tmp_path: Path) -> None:
    """AF_UNIX is opened by itself; any other family besides TCP and UDP with the network, and exactly."""
    arch = ARCHES["amd64"]
    image = Image({}, arch, tmp_path)
    socket = number("socket", arch) or 0
    local = 'syscalls: {allow: [{socket: {when: ["family == AF_UNIX"]}}]}'
    assert image.remedy(socket, [1, 0x80001, 0, 0, 0, 0]) == local
    assert image.remedy(socket, [1, 2, 0, 0, 0, 0]) == local
    assert image.remedy(socket, [2, 0x80001, 6, 0, 0, 0]) == "enable_network: true"
    raw = 'syscalls: {allow: [{socket: {when: ["family == 0x2 and type == 0x3 and protocol == 0x1"]}}]}'
    assert image.remedy(socket, [2, 3, 1, 0, 0, 0]) == NETWORK_TOO + raw
    assert Image({"enable_network": True}, arch, tmp_path).remedy(socket, [2, 3, 1, 0, 0, 0]) == raw


def test_what_deny_has_taken_is_said_first(tmp_path: Path) -> None:
    """The whole call, or the condition that is in the way: naming it in allow besides would be refused."""
    arch = ARCHES["amd64"]
    image = Image(CONFIGS["edited"], arch, tmp_path)
    uname, fcntl, f_setfl, f_add_seals = number("uname", arch) or 0, number("fcntl", arch) or 0, 4, 1033
    assert image.remedy(uname, [0] * 6) == f"take it{OUT_OF_DENY}"
    assert image.remedy(fcntl, [3, f_setfl, 0, 0, 0, 0]) == f'take "cmd == F_SETFL"{OUT_OF_DENY}'
    assert image.remedy(fcntl, [3, f_add_seals, 0, 0, 0, 0]) == "syscalls: {groups: [memfd]}"


@both_arches
def test_what_is_denied_without_a_word(arch: Arch, tmp_path: Path) -> None:
    """Just what the catalog lists under probes, which is denied all the same; all else is named."""
    probes = {rule.name: rule.when for rule in CATALOG.probes}
    for config in ({}, CONFIGS["core"]):
        image = Image(config, arch, tmp_path)
        assert {call["name"] for call in image.calls.values() if "probes" in call} == {*probes}
        for name, lines in probes.items():
            call = number(name, arch) or 0
            for arguments in near_misses([line.conditions for line in lines]):
                told = probed(image.calls[str(call)], arguments)
                assert told == any(line.holds(arguments) for line in lines)
                assert image.answer("chroot", call, arguments) == USER_NOTIF
