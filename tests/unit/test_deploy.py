"""`sandbox-build deploy`: golden files, the platforms' own schemas, least privileges, the key."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest
import yaml

from builder.deploy import TARGETS, platforms, render_manifest
from tests.unit.manifests import (
    CONFIGS,
    POSSIBLE,
    Document,
    changed,
    config_of,
    documents,
    pod_of,
    problems,
    rendered,
    request_of,
)

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("golden") / "deploy"

CASES = {
    f"{target}-{level}-{network}.yaml": (
        request_of(target, level, namespace="sandboxes" if level == "chroot" and network != "off" else None),
        CONFIGS[network],
    )
    for target, level, network in POSSIBLE
    if network == "off" or (target in ("kubernetes", "knative") and (level == "chroot") == (network == "on"))
}
"""Golden file -> what is asked for, and the config's text."""


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, tmp_path: Path) -> None:
    """Each platform has the manifest that was read and agreed on."""
    request, text = CASES[name]
    assert render_manifest(config_of(text, tmp_path), request)[0] == (GOLDEN / name).read_text()


# What the platforms' own schemas say

BROKEN: dict[str, tuple[str, object, str]] = {
    "kubernetes": ("spec/template/spec/containers/0/securityContext/capabilities/keep", ["ALL"], "'keep'"),
    "knative": ("spec/template/spec/containers/0/lifecycle", {}, "'lifecycle'"),
    "cloudrun": ("spec/template/spec/containers/0/securityContext", {"runAsUser": 0}, "'securityContext'"),
    "lambda": ("Resources/Function/Properties/MemorySize", 64, "64 is less than"),
    "compose": ("services/sandbox-python/capabilities", ["ALL"], "'capabilities'"),
}
"""What each platform must refuse: a key that it has not, or a value that it does not take."""


@pytest.mark.parametrize(("target", "level", "network"), POSSIBLE)
def test_the_platform_takes_it(target: str, level: str, network: str, tmp_path: Path) -> None:
    """Each level, with network and without, is valid by the platform's schema, which refuses a broken one."""
    text = rendered(tmp_path, target, level, CONFIGS[network], name="sandbox-python")
    assert problems(target, text) == []
    path, value, told = BROKEN[target]
    assert any(told in one for one in problems(target, changed(text, path, value)))


@pytest.mark.parametrize("kind", ["Service", "NetworkPolicy", "PodDisruptionBudget"])
def test_every_document_is_looked_at(kind: str, tmp_path: Path) -> None:
    """A mistake in any document behind the first is found as well."""
    text = rendered(tmp_path, "kubernetes")
    *before, after = re.split(rf"(?m)^kind: {kind}$", text)
    broken = f"kind: {kind}".join(before) + f"kind: {kind}\nnosuchkey: 1" + after
    assert problems("kubernetes", text) == []
    assert ["'nosuchkey'" in one for one in problems("kubernetes", broken)] == [True, True]


@pytest.mark.parametrize(
    ("target", "path", "value", "told"),
    [
        ("kubernetes", "spec/template/spec/terminationGracePeriodSeconds", "soon", "'soon'"),
        ("kubernetes", "spec/template/spec/containers/0/startupProbe/httpGet/header", "x", "'header'"),
        ("knative", "spec/template/spec/containerConcurrency", "many", "'many'"),
        (
            "knative",
            "spec/template/spec/terminationGracePeriodSeconds",
            30,
            "'terminationGracePeriodSeconds'",
        ),
        ("cloudrun", "spec/template/spec/timeoutSeconds", "1 minute", "'1 minute'"),
        ("cloudrun", "spec/template/spec/enableServiceLinks", False, "'enableServiceLinks'"),
        ("lambda", "Resources/Function/Properties/Architectures", ["riscv64"], "'riscv64'"),
        ("lambda", "Resources/Url/Properties/AuthType", "KEY", "'KEY'"),
        ("compose", "services/sandbox-python/pids_limit", [1], "[1]"),
        ("compose", "services/sandbox-python/healthcheck/command", "x", "'command'"),
    ],
)
def test_the_schemas_can_refuse(target: str, path: str, value: object, told: str, tmp_path: Path) -> None:
    """Wrong types, and keys that a platform does not have there, are told by each of the schemas."""
    text = rendered(tmp_path, target, name="sandbox-python")
    assert problems(target, yaml.safe_dump_all(documents(text))) == []  # as it is written with the change
    assert any(told in one for one in problems(target, changed(text, path, value)))


# Privileges


def restricted_faults(pod: Document) -> list[str]:
    """What keeps a pod out of the profile "restricted" of Kubernetes' Pod Security Standards."""
    outer = pod.get("securityContext", {})
    faults = []
    for container in pod["containers"]:
        own = {**outer, **container.get("securityContext", {})}
        capabilities = own.get("capabilities", {})
        faults += [
            said
            for said, wrong in {
                "root may run": own.get("runAsNonRoot") is not True or own.get("runAsUser") == 0,
                "privileges may grow": own.get("allowPrivilegeEscalation") is not False,
                "capabilities": capabilities.get("drop") != ["ALL"] or capabilities.get("add", []),
                "seccomp": own.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
            }.items()
            if wrong
        ]
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected", "secret"}
    faults += [f"volume {kind}" for one in pod["volumes"] for kind in set(one) - {"name"} - allowed]
    return faults + [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]


BASELINE = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
    *("NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
"""What the profile "baseline" lets a container add."""


@pytest.mark.parametrize(("target", "network"), [*product(("kubernetes", "knative"), CONFIGS)])
def test_landlock_is_restricted(target: str, network: str, tmp_path: Path) -> None:
    """At level landlock a pod fits "restricted", its root file system read-only; at chroot it does not."""
    pod = pod_of(rendered(tmp_path, target, "landlock", CONFIGS[network]))
    assert restricted_faults(pod) == []
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["automountServiceAccountToken"] is False
    chroot = pod_of(rendered(tmp_path, target, "chroot", CONFIGS[network]))
    assert restricted_faults(chroot) == ["root may run", "capabilities"]


def root_needs() -> list[str]:
    """ROOT_NEEDS of runtime/jail.py, read and not imported: that wants the image's own machine code."""
    found = re.search(
        r"^ROOT_NEEDS = \{(.*?)^\}", (ROOT / "runtime/jail.py").read_text(), re.DOTALL | re.MULTILINE
    )
    assert found
    return re.findall(r'"([A-Z_]+)":', found[1])


def test_chroot_has_what_the_lockdown_needs(tmp_path: Path) -> None:
    """Capabilities are what runtime/jail.py asks for, and two besides; all are in Kubernetes' "baseline"."""
    capabilities = set(platforms()["capabilities"])
    assert capabilities == {*root_needs(), "CHOWN", "KILL"}
    assert capabilities <= BASELINE
    for target in ("kubernetes", "knative"):
        context = pod_of(rendered(tmp_path, target, "chroot"))["containers"][0]["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"], "add": [*platforms()["capabilities"]]}
        assert context["allowPrivilegeEscalation"] is False
    service = documents(rendered(tmp_path, "compose", "chroot"))[0]["services"]["sandbox-python"]
    assert service["cap_drop"] == ["ALL"]
    assert set(service["cap_add"]) == capabilities


def test_every_capability_says_why(tmp_path: Path) -> None:
    """Each capability stands on a line of its own, with its reason."""
    text = rendered(tmp_path, "kubernetes", "chroot")
    for name, reason in platforms()["capabilities"].items():
        assert re.search(rf"- {name} *# {re.escape(reason)}$", text, re.MULTILINE)


def test_compose_takes_every_privilege_away(tmp_path: Path) -> None:
    """At level landlock no capability is left, and nothing can be written but the runs' folders."""
    service = documents(rendered(tmp_path, "compose", "landlock"))[0]["services"]["sandbox-python"]
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["user"] == "60000:60000"
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == [
        "/var/sandbox/sandbox-python/tmp:size=268435456,mode=0700,uid=60000,gid=60000"
    ]


@pytest.mark.parametrize(
    ("uid_range", "uid"), [("[10000, 50000]", 60000), ("[70000, 10]", 70010), (f"[{2**31 - 10}, 10]", 65532)]
)
def test_the_uid_is_no_runs(uid_range: str, uid: int, tmp_path: Path) -> None:
    """The server's uid at level landlock lies outside jail.uid_range, and is one that Kubernetes takes."""
    text = rendered(tmp_path, "kubernetes", "landlock", f"jail: {{uid_range: {uid_range}}}")
    assert pod_of(text)["securityContext"]["runAsUser"] == uid
    assert problems("kubernetes", text) == []


# The key


@pytest.mark.parametrize("target", TARGETS)
def test_no_key_is_in_a_manifest(target: str, tmp_path: Path) -> None:
    """A key of the config is in no manifest; where one is needed, the manifest says how to make it."""
    text = rendered(tmp_path, target, text="app: {key: correct-horse-battery}")
    assert "horse" not in text
    assert ("openssl rand -hex 32" in text) == (target != "lambda")


def test_the_key_is_a_reference(tmp_path: Path) -> None:
    """The key comes out of a Secret; with Compose, nothing starts without it."""
    for target, key in (("kubernetes", "api-key"), ("knative", "api-key"), ("cloudrun", "latest")):
        (variable,) = pod_of(rendered(tmp_path, target, name="box"))["containers"][0]["env"]
        assert variable == {"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": "box-key", "key": key}}}
    service = documents(rendered(tmp_path, "compose"))[0]["services"]["sandbox-python"]
    assert service["environment"] == {"API_KEY": "${API_KEY:?the key that clients send}"}


def test_insecure_is_said(tmp_path: Path) -> None:
    """With app.insecure no secret is named, and a warning says what that means."""
    config = config_of("app: {insecure: true}", tmp_path)
    for target in TARGETS:
        text, warnings = render_manifest(config, request_of(target))
        assert "API_KEY" not in text
        assert any("whoever reaches the service runs code" in message for message, _ in warnings)
        assert problems(target, text) == []
