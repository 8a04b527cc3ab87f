"""The policy for other programs: what each form must have, and that it lets through no less than it must.

tests/integration/test_policy.py runs the image under the profile.
"""

import json
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
import yaml

from builder.arch import ARCHES, Arch
from builder.seccomp import Call, Request, effective_policy, load_groups
from builder.seccomp.bpf import ALLOW, evaluate
from builder.seccomp.catalog import load_catalog
from builder.seccomp.check import near_misses
from builder.seccomp.compile import compile_policy
from builder.seccomp.export import docker_profile, export, setup_calls, spo_profile
from builder.seccomp.policy import Policy
from builder.seccomp.syscalls import known_names, number

AMD64 = ARCHES["amd64"]
CATALOG = load_catalog()
REQUESTS = {
    "default": Request(),
    "every-group": Request(tuple(load_groups()), network=True),
    "edited": Request(
        ("numeric",),
        (
            Call("mlock"),
            Call("mincore", (CATALOG.line("mincore", "arg2 & 0x8000000000000001 == 0x8000000000000001"),)),
        ),
        (Call("uname"), Call("madvise", (CATALOG.line("madvise", "advice == MADV_HUGEPAGE"),))),
        unsafe=("ptrace",),
    ),
    "little": Request(allow=(Call("read"),), replace=True),
}

both_arches = pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
every_request = pytest.mark.parametrize("name", REQUESTS)

ACTIONS = {"enum": [f"SCMP_ACT_{name}" for name in ("ALLOW", "ERRNO", "KILL_PROCESS", "LOG")]}
UINT64, INT64 = ({"type": "integer", "minimum": 0, "maximum": 2**bits - 1} for bits in (64, 63))


def schema(number_: dict[str, Any], more: dict[str, Any], more_of_a_rule: dict[str, Any]) -> dict[str, Any]:
    """What runtime-spec's config-linux.md and SPO's SeccompProfile have in common, and we use of it."""
    argument = {
        "type": "object",
        "required": ["index", "value", "op"],
        "properties": {
            "index": {"type": "integer", "minimum": 0, "maximum": 5},
            "value": number_,
            "valueTwo": number_,
            "op": {"enum": ["SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"]},
        },
        "additionalProperties": False,
    }
    rule = {
        "type": "object",
        "required": ["names", "action"],
        "properties": {
            "names": {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "string"}},
            "action": ACTIONS,
            "args": {"type": "array", "minItems": 1, "maxItems": 6, "items": argument},
            **more_of_a_rule,
        },
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "required": ["defaultAction"],
        "properties": {
            "defaultAction": ACTIONS,
            "architectures": {"items": {"enum": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]}},
            "syscalls": {"type": "array", "items": rule},
            **more,
        },
        "additionalProperties": False,
    }


DOCKER = schema(
    UINT64, {"defaultErrnoRet": {"const": 1}}, {"errnoRet": {"const": 38}, "comment": {"type": "string"}}
)
# deploy/base-crds/crds/seccompprofile.yaml of kubernetes-sigs/security-profiles-operator, v1beta1.
SPO = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "security-profiles-operator.x-k8s.io/v1beta1"},
        "kind": {"const": "SeccompProfile"},
        "metadata": {"type": "object", "properties": {"name": {"pattern": "^[a-z0-9.-]{1,63}$"}}},
        "spec": schema(INT64, {}, {}),
    },
    "additionalProperties": False,
}


def made(name: str, arch: Arch = AMD64) -> Policy:
    return effective_policy(REQUESTS[name], arch)


def passes(rules: Sequence[dict[str, Any]], name: str, arguments: Sequence[int]) -> bool:
    """Whether a rule of a profile allows the call, as runtime-spec says."""
    for rule in rules:
        if name in rule["names"] and rule["action"] == "SCMP_ACT_ALLOW":
            mine = [value & (2**64 - 1) for value in arguments]
            if all(
                mine[one["index"]] == one["value"]
                if one["op"] == "SCMP_CMP_EQ"
                else mine[one["index"]] & one["value"] == one["valueTwo"]
                for one in rule.get("args", [])
            ):
                return True
    return False


@both_arches
@every_request
def test_the_profile_is_the_policy_and_the_set_up(name: str, arch: Arch) -> None:
    """What the filter lets through, the profiles do; more than that only set-up calls and the core."""
    policy = made(name, arch)
    program = compile_policy(policy, arch)
    core = compile_policy(effective_policy(Request(("core",), replace=True), arch), arch)
    docker = docker_profile(policy, arch)["syscalls"]
    spo = spo_profile(policy, arch, "x")["spec"]["syscalls"]
    for call in sorted(known_names()):
        found = number(call, arch)
        if found is None:
            continue
        lines = [line.conditions for line in policy.allowed().get(call, ())]
        for arguments in near_misses(lines):
            wanted = call in setup_calls() or any(
                evaluate(one, arch.audit_arch, found, arguments) == ALLOW for one in (program, core)
            )
            assert passes(docker, call, arguments) == wanted, (call, arguments)
            # A condition that SPO has no number for is left to the image's own filter.
            assert passes(spo, call, arguments) >= wanted, (call, arguments)
            if (name, call) != ("edited", "mincore"):
                assert passes(spo, call, arguments) == wanted, (call, arguments)


@both_arches
@every_request
def test_the_forms_are_valid(name: str, arch: Arch) -> None:
    """Nothing stands in them that Docker or the operator does not read."""
    policy = made(name, arch)
    jsonschema.validate(json.loads(export(policy, arch, "docker", "x")), DOCKER)
    jsonschema.validate(yaml.safe_load(export(policy, arch, "spo", "sandbox-python")), SPO)


def test_each_call_is_of_the_architecture() -> None:
    """A profile for arm64 has no open, and says for which architecture it is."""
    profile = docker_profile(made("default", ARCHES["arm64"]), ARCHES["arm64"])
    assert profile["architectures"] == ["SCMP_ARCH_AARCH64"]
    names = {name for rule in profile["syscalls"] for name in rule["names"]}
    assert "openat" in names
    assert not names & {"open", "vfork", "arch_prctl"}


def test_no_rule_contradicts_another() -> None:
    """No call is both allowed and killed, nor allowed whole and by argument: engines differ on that."""
    for name in REQUESTS:
        rules = docker_profile(made(name), AMD64)["syscalls"]
        whole = [one for rule in rules if "args" not in rule for one in rule["names"]]
        partly = {one for rule in rules if "args" in rule for one in rule["names"]}
        assert len(whole) == len(set(whole))
        assert not set(whole) & partly
        seen = [json.dumps([rule["names"], rule["args"]]) for rule in rules if "args" in rule]
        assert len(seen) == len(set(seen))


def test_what_is_denied_is_answered_alike() -> None:
    """EPERM by default, ENOSYS where callers fall back, the end for attacks, but for what is unsafe."""
    profile = docker_profile(made("edited"), AMD64)
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    by_action = {rule["action"]: rule for rule in profile["syscalls"] if "args" not in rule}
    assert by_action["SCMP_ACT_ERRNO"]["errnoRet"] == 38
    assert "clone3" in by_action["SCMP_ACT_ERRNO"]["names"]
    assert "bpf" in by_action["SCMP_ACT_KILL_PROCESS"]["names"]
    assert "ptrace" not in by_action["SCMP_ACT_KILL_PROCESS"]["names"]
    assert "ptrace" in by_action["SCMP_ACT_ALLOW"]["names"]


def test_a_policy_that_lets_through_has_a_profile_that_does() -> None:
    """on_denied: log logs in the engine's profile too, and keeps the dangerous calls out."""
    profile = docker_profile(effective_policy(Request(on_denied="log"), AMD64), AMD64)
    assert profile["defaultAction"] == "SCMP_ACT_LOG"
    denied = [rule for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ERRNO"]
    assert any("mount" in rule["names"] and "errnoRet" not in rule for rule in denied)
    names = [name for rule in profile["syscalls"] if "args" not in rule for name in rule["names"]]
    assert len(names) == len(set(names))
    jsonschema.validate(profile, DOCKER)


def test_each_set_up_call_is_one_and_has_a_reason() -> None:
    """A misspelt name would be a hole in the profile that nobody sees."""
    assert set(setup_calls()) - known_names() == set()
    assert all(reason.strip() for reason in setup_calls().values())
    assert "; " in setup_calls()["exit_group"]  # in more than one part: every reason is kept


def test_pfc_says_what_stands_before_it() -> None:
    """libseccomp's own text for the architecture, behind comments that tell the prefix."""
    text = export(made("default"), AMD64, "pfc", "x")
    comment, _, code = text.partition("# pseudo filter code start\n")
    assert "KILL_PROCESS" in comment
    assert "0x40000000 (x32)" in comment
    assert "a number above 449" in comment
    assert all(line.startswith("#") for line in comment.splitlines())
    assert "filter for arch x86_64" in code
    assert '# filter for syscall "openat" (257)' in code
    assert "aarch64" in export(made("default", ARCHES["arm64"]), ARCHES["arm64"], "pfc", "x")


def test_the_same_policy_is_the_same_text() -> None:
    """Whatever the order in which a config has its calls."""
    one, other = (
        Request(allow=(Call("mlock"), Call("mincore"))),
        Request(allow=(Call("mincore"), Call("mlock"))),
    )
    for form in ("docker", "spo", "pfc"):
        texts = {export(effective_policy(request, AMD64), AMD64, form, "x") for request in (one, other)}
        assert len(texts) == 1
