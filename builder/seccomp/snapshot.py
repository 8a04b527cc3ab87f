"""A policy as one architecture has it, small enough for an image's label; and its answer to any call.

The compiled filter is tested against `Snapshot.answer`, which knows nothing of BPF.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from builder.arch import ARCHES, Arch
from builder.errors import UsageError
from builder.seccomp.catalog import Condition, load_catalog
from builder.seccomp.compile import X32_BIT, newest_number
from builder.seccomp.policy import Policy
from builder.seccomp.syscalls import number, table

POLICY_LABEL, DIGEST_LABEL, UNSAFE_LABEL = (
    "sandbox-build.policy",
    "sandbox-build.policy.digest",
    "sandbox-build.policy.unsafe",
)

ALLOW, DENY, ENOSYS, KILL = "allow", "deny", "enosys", "kill"
"""What a policy can say to a call: go on; EPERM (or what on_denied names); there is no such call; SIGSYS."""

_FORMAT = 1
_NAME = re.compile("[a-z0-9_]+")
_WORDS = ("groups", "always", "enosys", "kill", "landlock", "own", "denied", "unsafe")
"""What the label holds as names in one text: half the length of a list."""

Conditions = tuple[Condition, ...]
"""What must hold together."""


@dataclass(frozen=True)
class Snapshot:
    """What each call is answered with on `arch`; what stands nowhere here is denied."""

    arch: Arch
    groups: tuple[str, ...]
    allow: Mapping[str, tuple[Conditions, ...]]
    """Any one must hold; none: whatever the arguments."""
    enosys: tuple[str, ...]
    kill: tuple[str, ...]
    newest: int
    """Higher numbers are calls newer than the policy."""
    landlock: tuple[str, ...]
    """What level `landlock` denies besides."""
    own: tuple[str, ...]
    """What the config allows by a line of its own, not by a group."""
    denied: tuple[str, ...]
    """What the config takes away, wholly or in part."""
    unsafe: tuple[str, ...]
    on_denied: str

    @classmethod
    def of(cls, policy: Policy, arch: Arch) -> Snapshot:
        """`policy` as it comes out on `arch`."""

        def here(names: Sequence[str]) -> tuple[str, ...]:
            return tuple(name for name in names if number(name, arch) is not None)

        catalog, allowed = load_catalog(), policy.allowed()
        sources = {one.rule.name: one.source for one in policy.allow if one.source not in catalog.groups}
        return cls(
            arch=arch,
            groups=policy.groups,
            allow={name: tuple(line.conditions for line in allowed[name]) for name in here([*allowed])},
            enosys=here([rule.name for rule in policy.enosys]),
            kill=here([rule.name for rule in policy.kill]),
            newest=newest_number(policy, arch),
            landlock=here([*catalog.landlock]),
            own=here(sorted(sources)),
            denied=here(sorted({*policy.denied, *(call.name for call in policy.restricted)})),
            unsafe=here(policy.unsafe),
            on_denied=policy.on_denied,
        )

    def at_landlock(self) -> Snapshot:
        """The same at the level `landlock`."""
        return replace(
            self, allow={name: lines for name, lines in self.allow.items() if name not in self.landlock}
        )

    def answer(self, call: int, arguments: Sequence[int] = ()) -> str:
        """What a native call gets: ALLOW, DENY, ENOSYS or KILL. `arguments` has up to six, of 64 bits."""
        call &= 0xFFFF_FFFF
        if call >= X32_BIT:
            return KILL
        if call > self.newest:
            return ENOSYS
        name = table(self.arch).get(call, "")
        if name in self.kill:
            return KILL
        if name in self.enosys:
            return ENOSYS
        if name not in self.allow:
            return DENY
        padded = [value & 0xFFFF_FFFF_FFFF_FFFF for value in (*arguments, *[0] * (6 - len(arguments)))]
        lines = self.allow[name]
        met = any(all(condition.holds(padded) for condition in line) for line in lines)
        return ALLOW if met or not lines else DENY


def to_json(policy: Policy, arch: Arch) -> str:
    """The label `sandbox-build.policy`: the policy as it comes out on `arch`; same policy, same text."""
    one = Snapshot.of(policy, arch)
    always = sorted(name for name, lines in one.allow.items() if not lines)
    raw: dict[str, Any] = {
        "format": _FORMAT,
        "arch": arch.name,
        "newest": one.newest,
        "on_denied": one.on_denied,
        "when": {
            name: [[[part.argument, part.mask, part.value] for part in line] for line in lines]
            for name, lines in sorted(one.allow.items())
            if lines
        },
    }
    raw |= {key: " ".join(always if key == "always" else getattr(one, key)) for key in _WORDS}
    return json.dumps(raw, separators=(",", ":"))


def policy_labels(policy: Policy, arch: Arch, policy_bpf: bytes) -> dict[str, str]:
    """The image's labels that say what code in it may call; `policy_bpf` is the compiled policy."""
    unsafe = {UNSAFE_LABEL: " ".join(policy.unsafe)} if policy.unsafe else {}
    digest = hashlib.sha256(policy_bpf).hexdigest()
    return {POLICY_LABEL: to_json(policy, arch), DIGEST_LABEL: f"sha256:{digest}", **unsafe}


def from_json(text: str) -> Snapshot:
    """What `to_json` wrote; UsageError for anything else: a label is whatever its image's maker put there."""
    try:
        return _from_raw(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(
            f"the label {POLICY_LABEL} does not hold a policy that this version reads",
            "build the image again",
        ) from None


def _from_raw(raw: dict[str, Any]) -> Snapshot:
    if raw["format"] != _FORMAT or raw["on_denied"] not in ("errno", "kill", "log"):
        raise ValueError(raw)
    words = {key: tuple(raw[key].split()) for key in _WORDS}
    # They are going to be shown.
    if not all(_NAME.fullmatch(name) for name in chain(raw["when"], *words.values())):
        raise ValueError(raw)
    lines = {
        name: tuple(tuple(_conditions(line)) for line in lines)
        for name, lines in raw["when"].items()
        if lines
    }
    return Snapshot(
        arch=ARCHES[raw["arch"]],
        allow=dict.fromkeys(words.pop("always"), ()) | lines,
        newest=int(raw["newest"]),
        on_denied=raw["on_denied"],
        **words,
    )


def _conditions(line: list[list[int]]) -> Iterator[Condition]:
    for argument, mask, value in line:
        if argument not in range(6) or not 0 <= value <= mask < 1 << 64 or value & ~mask:
            raise ValueError(line)
        yield Condition(argument, mask, value)
