"""`sandbox-build deploy`: parses and prints; no logic."""

from __future__ import annotations

from pathlib import Path

import click

from builder.arch import ARCHES, Arch, parse_arch
from builder.cli_options import config_option, load, verbose_option
from builder.deploy import LEVELS, TARGETS, Request, render_manifest
from builder.errors import UsageError
from builder.progress import Progress
from builder.whole_file import whole_file


def _one_arch(_ctx: click.Context, _param: click.Parameter, name: str | None) -> Arch | None:
    return parse_arch(name) if name else None


@click.command(short_help="Write what a platform needs to run an image: least privileges, limits, probes.")
@config_option
@click.option("--target", type=click.Choice(TARGETS), help="The platform; it must be given.")
@click.option(
    "--level",
    type=click.Choice(LEVELS),
    help="The confinement that it gives the privileges for. Default: the config's jail.level; where that is"
    " any, chroot for compose and cloudrun, landlock for the others.",
)
@click.option(
    "--image",
    metavar="REF@sha256:DIGEST",
    help="The image, as `build --push` printed it. Default: the name in the config's image: section.",
)
@click.option("--namespace", metavar="NAME", help="Namespace, for kubernetes and knative.")
@click.option("--name", metavar="NAME", help="Name of what is run. Default: the image's.")
@click.option(
    "--replicas",
    type=click.IntRange(min=1, max=1000),
    metavar="N",
    help="kubernetes, compose: how many run. knative, cloudrun: the most. lambda: invocations at once.",
)
@click.option(
    "--arch",
    metavar="|".join(ARCHES),
    callback=_one_arch,
    help="The image's architecture. Default: whatever the image has; for lambda, this machine's.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write to FILE, not stdout.",
)
@verbose_option
def deploy(
    config_path: Path,
    target: str | None,
    level: str | None,
    image: str | None,
    namespace: str | None,
    name: str | None,
    replicas: int | None,
    arch: Arch | None,
    output: Path | None,
    verbose: bool,
) -> None:
    """Write what a platform needs to run an image as a service, with the least privileges of its level.

    \b
      sandbox-build deploy --target kubernetes --image registry.example/sandbox@sha256:... > sandbox.yaml
      sandbox-build deploy --target kubernetes --level chroot --namespace sandbox --replicas 4
      sandbox-build deploy --target compose --output compose.yaml

    kubernetes: Deployment, Service, NetworkPolicy, PodDisruptionBudget. knative: Service, NetworkPolicy.
    cloudrun: Service. lambda: a CloudFormation template. compose: compose.yaml.

    Memory, CPU, processes, time-outs and ways out into the network come from config.yaml, with the reason
    beside each. No key is in it: comments say how to make the secret that it names. Nothing is applied.
    docs/platforms/ says what each platform allows, and why.
    """
    if target is None:
        raise UsageError(f"--target is missing: it is {', '.join(TARGETS)}", "docs/platforms/ compares them")
    progress = Progress(verbose=verbose)
    request = Request(target, level, image, namespace, name, replicas, arch)
    text, warnings = render_manifest(load(config_path, progress), request)
    for message, hint in warnings:
        progress.warn(f"{message}; {hint}")
    if output is None:
        click.echo(text, nl=False)
        return
    with whole_file(output) as file:
        file.write(text.encode())
