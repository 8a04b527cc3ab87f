"""A policy in forms that other programs load: Docker's profile, Kubernetes' SeccompProfile, libseccomp's PFC.

The first two are for the whole container, so they hold the set-up calls of images/python/setup.yaml as well.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

from builder.arch import Arch
from builder.seccomp.catalog import load_catalog
from builder.seccomp.compile import X32_BIT, newest_number, pseudo_code
from builder.seccomp.conditions import Condition, Line
from builder.seccomp.policy import Policy
from builder.seccomp.syscalls import number

FORMATS = ("docker", "spo", "pfc")

_DEFAULT_ACTIONS = {"errno": "SCMP_ACT_ERRNO", "kill": "SCMP_ACT_ERRNO", "log": "SCMP_ACT_LOG"}
"""For each on_denied. Not KILL: an engine's init tries calls that it can do without."""

_WHOLE = 0xFFFF_FFFF_FFFF_FFFF
_SIGNED_LIMIT = 1 << 63
"""SeccompProfile's numbers are signed."""


@cache
def setup_calls() -> Mapping[str, str]:
    """What a container calls before its code is locked down, each with the reason."""
    text = (resources.files("images") / "python" / "setup.yaml").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for calls in yaml.safe_load(text).values():
        for name, reason in calls.items():
            found[name] = f"{found[name]}; {reason}" if name in found else reason
    return found


def export(policy: Policy, arch: Arch, form: str, name: str) -> str:
    """The policy as a text of `form`, one of FORMATS, ending with a newline; `name` is a resource's (spo)."""
    if form == "docker":
        return json.dumps(docker_profile(policy, arch), indent=1) + "\n"
    if form == "spo":
        return _SPO_COMMENT + yaml.safe_dump(spo_profile(policy, arch, name), sort_keys=False, width=110)
    return pfc(policy, arch)


def docker_profile(policy: Policy, arch: Arch) -> dict[str, Any]:
    """As https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp has it."""
    return {
        "defaultAction": _DEFAULT_ACTIONS[policy.on_denied],
        "defaultErrnoRet": errno.EPERM,
        "architectures": [f"SCMP_ARCH_{arch.seccomp}"],
        "syscalls": [*_rules(policy, arch)],
    }


def spo_profile(policy: Policy, arch: Arch, name: str) -> dict[str, Any]:
    """A SeccompProfile of security-profiles-operator.x-k8s.io/v1beta1, which old and new releases serve."""
    rules = []
    for rule in _rules(policy, arch):
        # Its errnoRet was text once and is a number now: what Docker's form answers with ENOSYS gets EPERM.
        if "errnoRet" in rule:
            continue
        arguments = [one for one in rule.get("args", []) if _is_signed(one)]
        plain = {"names": rule["names"], "action": rule["action"]}
        rules.append(plain | ({"args": arguments} if arguments else {}))
    return {
        "apiVersion": "security-profiles-operator.x-k8s.io/v1beta1",
        "kind": "SeccompProfile",
        "metadata": {"name": name},
        "spec": {
            "defaultAction": _DEFAULT_ACTIONS[policy.on_denied],
            "architectures": [f"SCMP_ARCH_{arch.seccomp}"],
            "syscalls": rules,
        },
    }


def _is_signed(argument: Mapping[str, Any]) -> bool:
    # One that the form has no number for is left out: the image's own filter still compares it.
    return int(max(argument["value"], argument.get("valueTwo", 0))) < _SIGNED_LIMIT


_SPO_COMMENT = """\
# For every container of the sandbox's image: `kubectl apply -f` this, and name it in the pod,
#   securityContext: {seccompProfile: {type: Localhost, localhostProfile: operator/NAME.json}}
# (`kubectl get seccompprofile NAME` prints the path). The image loads its own, narrower filter besides.
"""


def _rules(policy: Policy, arch: Arch) -> Iterator[dict[str, Any]]:
    """The rules: what policy and set-up together allow, then what is not there, then what is killed."""

    def here(names: Iterator[str]) -> list[str]:
        return sorted({name for name in names if number(name, arch) is not None})

    setup, allowed = setup_calls(), _with_core(policy)
    whole = here(name for name in (*allowed, *setup) if name in setup or not allowed[name])
    yield {"names": whole, "action": "SCMP_ACT_ALLOW"}
    for name in here(name for name in allowed if name not in whole):
        for line in allowed[name]:
            yield {
                "names": [name],
                "action": "SCMP_ACT_ALLOW",
                "args": [_argument(one) for one in line.conditions],
                "comment": line.text,
            }
    if absent := here(rule.name for rule in policy.enosys if rule.name not in setup):
        yield {"names": absent, "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}
    if killed := here(rule.name for rule in policy.kill if rule.name not in setup):
        yield {"names": killed, "action": "SCMP_ACT_KILL_PROCESS"}
    if policy.on_denied == "log":
        dangerous = here(name for name in load_catalog().refused if name not in {*setup, *allowed})
        absent_names = {rule.name for rule in policy.enosys}
        yield {"names": [name for name in dangerous if name not in absent_names], "action": "SCMP_ACT_ERRNO"}


def _with_core(policy: Policy) -> dict[str, tuple[Line, ...]]:
    """What the policy allows, and the group core in any case: the interpreter starts under the profile."""
    allowed = policy.allowed()
    for rule in load_catalog().groups["core"].rules:
        mine = allowed.get(rule.name, rule.when)
        both = {line.conditions: line for line in (*mine, *rule.when)} if mine and rule.when else {}
        allowed[rule.name] = tuple(both.values())
    return allowed


def _argument(one: Condition) -> dict[str, Any]:
    if one.mask == _WHOLE:
        return {"index": one.argument, "value": one.value, "op": "SCMP_CMP_EQ"}
    return {"index": one.argument, "value": one.mask, "valueTwo": one.value, "op": "SCMP_CMP_MASKED_EQ"}


def pfc(policy: Policy, arch: Arch) -> str:
    """libseccomp's pseudo code of the chroot level's program, and a comment on what stands before it."""
    return (
        f"# The policy for {arch.name}. Before libseccomp's program below stand seven instructions:\n"
        f"#   another ABI than {arch.audit_arch:#x}, or a number from {X32_BIT:#x} (x32): KILL_PROCESS\n"
        f"#   a number above {newest_number(policy, arch)}, newer than the policy: ERRNO({errno.ENOSYS})\n"
        f"# In a supervised run ERRNO({errno.EPERM}) is USER_NOTIF, and sendmsg(2) sends the listener away.\n"
        f"{pseudo_code(policy, arch)}"
    )
