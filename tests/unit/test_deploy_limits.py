"""`sandbox-build deploy`: memory, CPUs, time-outs, and where pods may connect to."""

from __future__ import annotations

import ipaddress
import re
from itertools import product
from pathlib import Path

import pytest

from builder.deploy import LEVELS, platforms, render_manifest
from tests.unit.manifests import (
    CONFIGS,
    Document,
    config_of,
    documents,
    pod_of,
    problems,
    rendered,
    request_of,
)

# Limits


def test_memory_is_enough_for_all_runs(tmp_path: Path) -> None:
    """Memory is the sum of what its comment names; the scratch volume has room for every run's folder."""
    text = "max_workers: 3\nlimits: {memory: 100MiB, scratch: 10MiB, output: 1MiB}\napp: {max_body: 1MiB}"
    container = pod_of(manifest := rendered(tmp_path, "kubernetes", text=text))["containers"][0]
    assert container["resources"]["limits"] == {"memory": "511Mi", "cpu": 3}  # 300 + 30 + 3 + 50 + 128
    assert container["resources"]["requests"]["memory"] == "511Mi"
    assert pod_of(manifest)["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "30Mi"}
    assert "3 x limits.memory + 3 x limits.scratch (it is memory) + 3 x limits.output + 50Mi" in manifest


@pytest.mark.parametrize("grace_s", [0, 8, 8.5, 120])
def test_the_platform_waits_longer_than_the_server(grace_s: float, tmp_path: Path) -> None:
    """What a platform waits before it kills is more than app.grace_s, and what comes before it."""
    text = f"app: {{grace_s: {grace_s}}}"
    pod = pod_of(rendered(tmp_path, "kubernetes", text=text))
    leave_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > leave_s + grace_s
    service = documents(rendered(tmp_path, "compose", text=text))[0]["services"]["sandbox-python"]
    assert int(service["stop_grace_period"].removesuffix("s")) > grace_s


def test_the_probes_differ(tmp_path: Path) -> None:
    """A pod is out of the Service soon, and started anew only much later."""
    container = pod_of(rendered(tmp_path, "kubernetes"))["containers"][0]
    seconds = {
        kind: container[f"{kind}Probe"]["periodSeconds"] * container[f"{kind}Probe"]["failureThreshold"]
        for kind in ("startup", "readiness", "liveness")
    }
    assert seconds["readiness"] < seconds["startup"] < seconds["liveness"]


def test_requests_at_once(tmp_path: Path) -> None:
    """Knative and Cloud Run send an instance max_requests at a time, and wait as long as the last one may."""
    for target in ("knative", "cloudrun"):
        spec = pod_of(rendered(tmp_path, target, text="max_requests: 20\nmax_workers: 5\nworker_timeout: 3"))
        assert spec["containerConcurrency"] == 20
        assert spec["timeoutSeconds"] == 4 * 3 + 5


@pytest.mark.parametrize(
    ("memory", "workers", "cpu"), [("256MiB", 1, "1"), ("1GiB", 4, "4"), ("3GiB", 4, "4"), ("3GiB", 8, "8")]
)
def test_cloud_run_has_cpus_for_its_memory(memory: str, workers: int, cpu: str, tmp_path: Path) -> None:
    """As many CPUs as workers, and never fewer than Cloud Run asks for so much memory."""
    text = f"max_workers: {workers}\nlimits: {{memory: {memory}}}"
    limits = pod_of(rendered(tmp_path, "cloudrun", text=text))["containers"][0]["resources"]["limits"]
    assert limits["cpu"] == cpu
    amount, unit = re.fullmatch(r"(\d+)([MG])i", limits["memory"]).groups()  # type: ignore[union-attr]
    size = int(amount) << {"M": 20, "G": 30}[unit]
    least = next(count for most, count in platforms()["targets"]["cloudrun"]["memory"] if size <= most)
    assert int(cpu) >= least


# The network

METADATA = [ipaddress.ip_address(one) for one in ("169.254.169.254", "168.63.129.16", "fd00:ec2::254")]


def reaches(policy: Document, address: str, port: int) -> bool:
    """Whether a NetworkPolicy lets a pod connect to an address outside the cluster."""
    wanted = ipaddress.ip_address(address)
    for rule in policy["spec"]["egress"]:
        ports = [one["port"] for one in rule.get("ports", [])]
        blocks = [one["ipBlock"] for one in rule["to"] if "ipBlock" in one]
        for block in blocks:
            inside = wanted in ipaddress.ip_network(block["cidr"])
            outside = any(wanted in ipaddress.ip_network(one) for one in block.get("except", []))
            if inside and not outside and (not ports or port in ports):
                return True
    return False


def policy_of(text: str) -> Document:
    return next(one for one in documents(text) if one["kind"] == "NetworkPolicy")


@pytest.mark.parametrize(("target", "level"), [*product(("kubernetes", "knative"), LEVELS)])
def test_without_network_nothing_leaves(target: str, level: str, tmp_path: Path) -> None:
    """enable_network: false denies all egress, name servers included."""
    policy = policy_of(rendered(tmp_path, target, level))
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["egress"] == []


def test_what_the_config_allows_is_reached(tmp_path: Path) -> None:
    """Addresses are reached as they are, names on public addresses, the proxy too, each at its port alone."""
    policy = policy_of(rendered(tmp_path, "kubernetes", text=CONFIGS["on"]))
    assert reaches(policy, "10.1.2.3", 5432)
    assert not reaches(policy, "10.1.2.3", 443)
    assert not reaches(policy, "10.2.0.1", 5432)
    assert reaches(policy, "2001:db8::7", 22)
    assert not reaches(policy, "2001:db8::8", 22)
    assert reaches(policy, "151.101.0.223", 443)  # where names lead is not known here
    assert not reaches(policy, "151.101.0.223", 80)
    assert reaches(policy, "10.9.9.9", 3128)
    name_servers = policy["spec"]["egress"][0]
    assert {(one["protocol"], one["port"]) for one in name_servers["ports"]} == {("UDP", 53), ("TCP", 53)}


@pytest.mark.parametrize(
    "allow", ["", "['*:*']", "['0.0.0.0/0:*', '[::/0]:*']", "['169.254.169.254:80', '[fd00:ec2::254]:80']"]
)
def test_metadata_services_are_never_reached(allow: str, tmp_path: Path) -> None:
    """Whatever network.allow says, no rule leads to a metadata service of a cloud; a proxy's neither."""
    text = CONFIGS["anywhere"] + (f"network: {{allow: {allow}}}\n" if allow else "")
    text += "proxy: {https: 'http://proxy.example:80'}\n"
    config = config_of(text, tmp_path)
    manifest, warnings = render_manifest(config, request_of("kubernetes"))
    for address in METADATA:
        assert not reaches(policy_of(manifest), str(address), 80)
    left_out = [message for message, _ in warnings if "metadata service" in message]
    assert len(left_out) == allow.count(":80'")
    assert problems("kubernetes", manifest) == []


def test_private_addresses_want_to_be_named(tmp_path: Path) -> None:
    """Without network.allow the cluster and its neighbours stay out of reach, and the world does not."""
    policy = policy_of(rendered(tmp_path, "kubernetes", text=CONFIGS["anywhere"]))
    assert reaches(policy, "93.184.215.14", 443)
    for address in ("10.0.0.1", "172.16.0.1", "192.168.1.1", "fd12::1", "100.64.0.1"):
        assert not reaches(policy, address, 443)


def test_compose_has_no_way_out(tmp_path: Path) -> None:
    """Without network the service is on an internal network alone; with it, on another one as well."""
    for text, networks in (("", ["inside"]), (CONFIGS["on"], ["inside", "outside"])):
        document = documents(rendered(tmp_path, "compose", text=text))[0]
        assert document["services"]["sandbox-python"]["networks"] == networks
        assert document["networks"]["inside"] == {"internal": True}
        assert "ports" not in document["services"]["sandbox-python"]
