"""Config and an image's name -> what a platform is told to run. Pure: only images/deploy/ is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from builder.arch import Arch, host_arch
from builder.bases import default_python_path
from builder.config import Config, parse_base
from builder.errors import UsageError
from builder.network_policy import ways_out
from builder.reference import DIGEST, MAX_LENGTH, NAME, TAG
from builder.tree.spec import TREE_PATH

TARGETS = ("kubernetes", "knative", "cloudrun", "lambda", "compose")
LEVELS = ("chroot", "landlock")

_NAMESPACED = ("kubernetes", "knative")
_SCRATCH_PATH = f"{TREE_PATH}/tmp"  # noqa: S108 - of the jail
# The narrowest rule of all platforms: a Service's name (RFC 1035).
_LABEL = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")
_ECR = re.compile(r"\d{12}\.dkr[.-]ecr\.")
_MIB, _GIB = 1 << 20, 1 << 30
_LEAVE_S = 5
"""What proxies may take to send no more requests to a pod that ends."""
_END_S = 4
"""What a server takes to end its processes, once its grace is over."""
_LEAST_PORT = 1024
_HIGHEST_UID = 2**31 - 1
_NOBODY = 65532

_HEALTH = (
    "import http.client; c = http.client.HTTPConnection('127.0.0.1', {port}, timeout=4);"
    " c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"
)


@dataclass(frozen=True)
class Request:
    """What the command line asks for; None where it leaves the choice to us."""

    target: str
    level: str | None = None
    image: str | None = None
    namespace: str | None = None
    name: str | None = None
    replicas: int | None = None
    arch: Arch | None = None


@cache
def platforms() -> Mapping[str, Any]:
    """images/deploy/platforms.yaml."""
    text = (resources.files("images") / "deploy" / "platforms.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def render_manifest(config: Config, request: Request) -> tuple[str, list[tuple[str, str]]]:
    """The manifest, and what should be known of it: (message, hint) pairs.

    UsageError where the platform, the config and what is asked for do not go together.
    """
    facts = platforms()["targets"][request.target]
    level = _level(config, request, facts["levels"])
    image, name = _image(config, request), _name(config, request, facts["name_chars"])
    if request.namespace is not None and request.target not in _NAMESPACED:
        raise UsageError(f"--namespace: {request.target} has none", f"it is for {' and '.join(_NAMESPACED)}")
    if request.namespace is not None and not _is_label(request.namespace, 63):
        raise UsageError(f"--namespace {request.namespace!r} is no namespace's name", _LABEL_HINT)
    if config.app.port < _LEAST_PORT and request.target != "lambda":
        raise UsageError(
            f"app.port: {config.app.port} wants a privilege that the manifest does not give",
            f"take one from {_LEAST_PORT} on; what is in front of the service may listen on any",
        )
    if request.target == "lambda" and config.enable_network and not config.network.allow:
        raise UsageError(
            "enable_network: code could answer for others on Lambda's own API, and `lambda` refuses to start",
            "network: {allow: [HOST:PORT, ...]} in config.yaml, which never leads there, or no network",
        )
    values = {
        "target": request.target,
        "level": level,
        "restricted": level == "landlock",
        "capabilities": platforms()["capabilities"],
        "image": image,
        "name": name,
        "namespace": request.namespace,
        "replicas": facts["replicas"] if request.replicas is None else request.replicas,
        "arch": request.arch,
        "port": config.app.port,
        "insecure": config.app.insecure,
        "network": config.enable_network,
        "allow": config.network.allow,
        "uid": _uid(config),
        "workers": config.max_workers,
        "scratch_path": _SCRATCH_PATH,
        "leave_s": _LEAVE_S,
        "stop_s": math.ceil(config.app.grace_s) + _END_S,
        "cpu_request": f"{min(1000 * config.max_workers, max(250, 250 * config.max_workers))}m",
        "processes": config.max_workers * config.limits.processes + platforms()["server"]["processes"],
        **_sizes(config, request, facts),
        **_choices(config, request, facts, name),
    }
    egress, left_out = ways_out(config)
    text = _environment().get_template(f"{request.target}.yaml.j2").render(values, egress=egress)
    return text, [*_warnings(config, request, image, facts), *left_out]


_LABEL_HINT = "small letters, digits and -, a letter first, at most 63"


def _level(config: Config, request: Request, possible: list[str]) -> str:
    """The level that the manifest gives the privileges for."""
    required = config.jail.level
    level = request.level or (required if required != "any" else possible[0])
    if required not in ("any", level):
        raise UsageError(
            f"--level {level}: the config requires jail: {{level: {required}}}, and would refuse every run",
            f"--level {required}, or jail: {{level: any}} in config.yaml and a new image",
        )
    if level not in possible:
        asked = f"--level {level}" if request.level else f"jail: {{level: {level}}}"
        raise UsageError(
            f"{asked}: {request.target} gives no container what that takes",
            f"jail: {{level: {possible[0]}}} in config.yaml; docs/platforms/{request.target}.md says why",
        )
    return level


def _image(config: Config, request: Request) -> str:
    text = request.image or f"{config.image.repository}:{config.image.tag}"
    named, at, digest = text.partition("@")
    folder, slash, last = named.rpartition("/")
    last, colon, tag = last.partition(":")
    if (
        not NAME.fullmatch(f"{folder}{slash}{last}")
        or (colon and not TAG.fullmatch(tag))
        or (at and not DIGEST.fullmatch(digest))
        or len(named) > MAX_LENGTH
    ):
        raise UsageError(
            f"--image {text!r} is not an image reference",
            "[HOST[:PORT]/]REPOSITORY[:TAG]@sha256:DIGEST, as `sandbox-build --push` prints it",
        )
    return text


def _name(config: Config, request: Request, most: int) -> str:
    name = request.name
    if name is None:
        # A repository may have dots and underscores, and begin with a digit.
        own = re.sub(r"[^a-z0-9]+", "-", config.image.repository.rsplit("/", 1)[-1].lower())
        name = (own if own[0].isalpha() else f"sandbox-{own}")[: most - len("-key")].rstrip("-")
    if not _is_label(name, most):
        raise UsageError(
            f"--name {name!r} is no name that {request.target} takes", _LABEL_HINT.replace("63", str(most))
        )
    return name


def _is_label(text: str, most: int) -> bool:
    return len(text) <= most and _LABEL.fullmatch(text) is not None


def _uid(config: Config) -> int:
    first, count = config.jail.uid_range
    behind = first + count
    return behind if behind <= _HIGHEST_UID else _NOBODY


def _sizes(config: Config, request: Request, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Memory, CPUs and the seconds of a request."""
    limits, own = config.limits, platforms()["server"]["memory"]
    runs = 1 if request.target == "lambda" else config.max_workers
    # Lambda has no file system for them.
    scratch = 0 if request.target == "lambda" else runs * limits.scratch_bytes
    output = runs * limits.output_bytes
    in_flight = 1 if request.target == "lambda" else config.max_requests
    bodies = min(in_flight * config.app.max_body_bytes, platforms()["server"]["bodies"])
    memory = _whole_mib(runs * limits.memory_bytes + scratch + output + bodies + own)
    parts = [
        f"{runs} x limits.memory",
        *((f"{runs} x limits.scratch (it is memory)",) if scratch else ()),
        f"{runs} x limits.output",
        f"{_binary(_whole_mib(bodies))} of requests",
        f"{_binary(own)} for the server",
    ]
    sizes: dict[str, Any] = {
        # A file system of no bytes at all would be one without a bound.
        "scratch": _whole_mib(max(scratch, 1)),
        "memory_reason": "Memory: " + " + ".join(parts) + ".",
    }
    most = facts.get("most_memory")
    if "memory" in facts:
        most = facts["memory"][-1][0]
        # 512 MiB is the least that the second generation takes.
        memory = max(memory, 512 * _MIB)
    if most is not None and memory > most:
        lower = "limits.memory" if runs == 1 else "max_workers, limits.memory or limits.scratch"
        raise UsageError(
            f"{request.target} gives at most {most // _MIB}MiB, and the config comes to {memory // _MIB}MiB:"
            f" {' + '.join(parts)}",
            f"lower {lower}",
        )
    if "memory" in facts:
        cpus = [count for _, count in facts["memory"]]
        asked = next(count for size, count in facts["memory"] if memory <= size)
        by_workers = next((count for count in cpus if count >= config.max_workers), cpus[-1])
        sizes["cpus"] = max(asked, by_workers)
    return sizes | {"memory": memory, "request_s": _request_s(config, request, facts)}


def _whole_mib(size: int) -> int:
    return math.ceil(size / _MIB) * _MIB


def _request_s(config: Config, request: Request, facts: Mapping[str, Any]) -> int:
    """What the platform should wait for an answer, in seconds."""
    most = facts.get("most_seconds")
    if most is None:
        return 0
    turns = 1 if request.target == "lambda" else math.ceil(config.max_requests / config.max_workers)
    wanted = math.ceil(turns * config.worker_timeout) + 5
    least = math.ceil(config.worker_timeout) + 5
    if least > most:
        raise UsageError(
            f"worker_timeout: {request.target} ends a request after {most} seconds, and a run may take"
            f" {config.worker_timeout:g}",
            f"lower it to {most - 5} seconds",
        )
    return int(min(wanted, most))


def _choices(config: Config, request: Request, facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What only one or two of the platforms ask."""
    chosen: dict[str, Any] = {
        "requests": min(config.max_requests, facts.get("most_requests", config.max_requests))
    }
    if request.target == "lambda":
        chosen["architecture"] = facts["architectures"][(request.arch or host_arch()).name]
    elif request.target == "cloudrun":
        # A service account's name has 6 to 30 characters.
        chosen["account"] = f"{name[:22].rstrip('-')}-runtime"
        if request.arch is not None and request.arch.name not in facts["architectures"]:
            raise UsageError(
                f"--arch {request.arch.name}: Cloud Run runs {' or '.join(facts['architectures'])} alone",
                "build for it, or push an index that has it",
            )
    elif request.target == "compose":
        chosen["health_command"] = _health_command(config)
    return chosen


def _health_command(config: Config) -> tuple[str, ...]:
    """What ends with 0 where /health says 200, of what the image has."""
    python = config.python_path or default_python_path(parse_base(config.base))
    return (python, "-I", "-S", "-B", "-c", _HEALTH.format(port=config.app.port))


def _warnings(
    config: Config, request: Request, image: str, facts: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    if "@" not in image:
        yield (
            f"{image} has no digest: what runs is whatever the tag names that day",
            "--image with the name and digest that `sandbox-build --push` printed",
        )
    if request.target == "lambda" and not _ECR.match(image):
        yield (
            f"Lambda takes images from Amazon ECR alone, and {image} is elsewhere",
            "--image ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME@sha256:DIGEST",
        )
    if config.app.insecure:
        yield (
            "app.insecure is true: whoever reaches the service runs code, and the manifest names no key",
            "take it out of config.yaml, and build again",
        )
    if (most := facts.get("term_seconds")) and config.app.grace_s + 1 > most:
        yield (
            f"app.grace_s: {request.target} ends an instance {most} seconds after SIGTERM",
            f"app: {{grace_s: {most - 2}}}",
        )
    if config.max_requests > facts.get("most_requests", config.max_requests):
        yield (
            f"max_requests: {request.target} sends an instance at most {facts['most_requests']} at a time",
            "it is what the manifest says",
        )


def _environment() -> Environment:
    # Not HTML: values are numbers, names that were checked, and what goes through the filter.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("images", "deploy"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"quoted": json.dumps, "binary": _binary}
    return environment


def _binary(size: int) -> str:
    """A size as Kubernetes writes it."""
    return f"{size // _GIB}Gi" if size % _GIB == 0 else f"{size // _MIB}Mi"
