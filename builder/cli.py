"""The commands: parse and print; no logic.

stdout carries the result alone (an image's name, a Dockerfile, JSON); everything else goes to stderr.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import click
import yaml

from builder import __version__
from builder.arch import Arch
from builder.cli_check import check
from builder.cli_compare import compare
from builder.cli_deploy import deploy
from builder.cli_inspect import inspect
from builder.cli_options import (
    arch_option,
    cache,
    config_option,
    image_option,
    index_option,
    json_option,
    load,
    output_option,
    own_image,
    timeout_option,
    verbose_option,
    wheelhouse_option,
)
from builder.cli_packages import lock, wheelhouse
from builder.cli_policy import policy
from builder.cli_report import explain
from builder.cli_trace import trace
from builder.config import effective, schema
from builder.errors import UsageError
from builder.progress import Progress


class DefaultVerb(click.Group):
    """A group in which `build` may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = ["build", *args]
        return super().parse_args(ctx, args)


_allow_missing_option = click.option(
    "--allow-missing",
    is_flag=True,
    help="Only warn about members of python_lib_path that the base does not have.",
)
_tag_option = click.option(
    "--tag", metavar="NAME:TAG", help="Name of the image, in place of the config's image: section."
)


@click.group(cls=DefaultVerb, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def commands() -> None:
    """Build container images that run untrusted Python in a chroot under seccomp.

    Without a command, `build` is meant:

    \b
      sandbox-build --arch amd64            build ./config.yaml into dist/
      echo 'print(1)' | sandbox-build run   run code in the jail of what was built
      sandbox-build doctor                  what this machine can do, and how to mend a lack

    Exit codes: 0 done, 1 build failed, 2 usage or config, 3 a tool is missing, 4 verification failed,
    130 interrupted.
    """


@commands.command(short_help="Build an image for each --arch, and push it with --push.")
@config_option
@arch_option
@click.option(
    "--driver",
    type=click.Choice(["auto", "docker", "oci"]),
    default="auto",
    show_default=True,
    help="docker: Docker Engine's BuildKit; oci: no daemon; auto: docker where an engine answers.",
)
@output_option
@_tag_option
@wheelhouse_option
@index_option
@click.option(
    "--report",
    "reports",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE.html|FILE.json",
    help="Write what the image holds, why, and how large it is. Needs a single --arch.",
)
@click.option(
    "--push",
    is_flag=False,
    flag_value="",
    metavar="[NAME:TAG]",
    help="Push to the registry that NAME begins with; by default NAME:TAG is the image's own.",
)
@click.option(
    "--if-absent",
    is_flag=True,
    help="With --push: fail where the registry has the tag already, of another image.",
)
@click.option(
    "--registry-cache",
    metavar="NAME:TAG",
    help="Take the locked files from this place in a registry, and keep them there: a cache for CI.",
)
@click.option("--no-cache", is_flag=True, help="Fetch the base anew and build even when nothing changed.")
@_allow_missing_option
@json_option
@verbose_option
def build(
    config_path: Path,
    arches: tuple[Arch, ...],
    driver: str,
    output: Path,
    tag: str | None,
    wheelhouse: Path | None,
    no_index: bool,
    reports: tuple[Path, ...],
    push: str | None,
    if_absent: bool,
    registry_cache: str | None,
    no_cache: bool,
    allow_missing: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Build an image for each --arch, and print its name with its digest.

    dist/ARCH/ then holds context/ (the Dockerfile and all that `docker build` needs) and image.tar, which
    docker load, skopeo and podman accept.
    """
    from builder import pipeline
    from builder.options import Options
    from builder.report import load_report
    from builder.report_page import write_report

    progress = Progress(verbose=verbose)
    config = load(config_path, progress)
    options = Options(
        config_path=config_path,
        wheelhouse=wheelhouse,
        index=not no_index,
        arches=arches,
        driver=driver,
        output=output,
        cache=cache(),
        tag=_name(tag, push),
        push=push is not None,
        if_absent=if_absent,
        registry_cache=registry_cache,
        no_cache=no_cache,
        allow_missing=allow_missing,
        epoch=_epoch(os.environ),
    )
    if if_absent and push is None:
        raise UsageError("--if-absent is about what is pushed", "--push NAME:TAG --if-absent")
    for path in reports:
        if path.suffix not in (".html", ".json"):
            raise UsageError(f"--report {path}: no such kind of report", "a file that ends in .html or .json")
        if len(arches) > 1:
            hint = "build each --arch by itself, or read dist/ARCH/report.json"
            raise UsageError("--report is about one image", hint)
    built, pushed = pipeline.build(config, options, progress)
    for path in reports:
        write_report(load_report(output / arches[0].name), path)
    if as_json:
        images = [asdict(one) | {"archive": str(one.archive), "name": one.name} for one in built]
        click.echo(json.dumps({"images": images, "pushed": pushed}, indent=1))
    else:
        # Of several architectures, the index over them comes last; of one, the image is what was pushed.
        for name in dict.fromkeys([one.name for one in built] + ([pushed] if pushed else [])):
            click.echo(name)


@commands.command(short_help="Print the Dockerfile that `build` would use.")
@config_option
@arch_option
@_tag_option
@_allow_missing_option
@verbose_option
def render(
    config_path: Path, arches: tuple[Arch, ...], tag: str | None, allow_missing: bool, verbose: bool
) -> None:
    """Print the Dockerfile that `build` would use; nothing is built or fetched."""
    from builder.dockerfile import render_dockerfile
    from builder.plan import make_plan

    progress = Progress(verbose=verbose)
    config = load(config_path, progress)
    for arch in arches:
        plan = make_plan(config, arch, tag=tag, epoch=_epoch(os.environ), allow_missing=allow_missing)
        click.echo(render_dockerfile(plan.dockerfile), nl=False)


for command in (lock, wheelhouse, check, explain, inspect, compare, policy, trace, deploy):
    commands.add_command(command)


@commands.command("show-config", short_help="Print what config, environment and defaults came to.")
@config_option
@json_option
@click.option("--schema", "as_schema", is_flag=True, help="Print the JSON schema of config.yaml instead.")
@verbose_option
def show_config(config_path: Path, as_json: bool, as_schema: bool, verbose: bool) -> None:
    """Print what the YAML, the environment and the defaults came to.

    For an editor's completion: sandbox-build show-config --schema > config.schema.json
    """
    if as_schema:
        click.echo(json.dumps(schema(), indent=2))
        return
    config = load(config_path, Progress(verbose=verbose))
    shown = effective(config)
    if as_json:
        click.echo(json.dumps(shown, indent=2))
    else:
        click.echo(yaml.safe_dump(shown, sort_keys=False), nl=False)


@commands.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    short_help="Run code in the jail of a built image.",
)
@image_option
@output_option
@click.option("-c", "code", metavar="CODE", help="Code to run, in place of a script.")
@timeout_option
@click.option("--status", is_flag=True, help="Say on stderr what was in force, and what was denied.")
@verbose_option
@click.argument("script", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    image: Path | None,
    output: Path,
    code: str | None,
    timeout_s: float | None,
    status: bool,
    verbose: bool,  # noqa: ARG001 - read by main()
    script: str | None,
    arguments: tuple[str, ...],
) -> None:
    """Run a script, or stdin, in the jail of a built image; no daemon is needed.

    \b
      echo 'print(1)' | sandbox-build run
      sandbox-build run script.py ARG...     (stdin is the script's own)
      sandbox-build run -c 'print(1)'

    An image is unpacked once below ~/.cache/sandbox-build, which may be deleted at any time.

    Ends with the code's exit code; 124 after a time-out, 125 after too much output, 208 to 223 where the
    lock-down was refused (docs/exit-codes.md).
    """
    from builder import jailrun

    path = own_image(image, output, "run this machine's own image, below --output")
    if code is None and script is not None and script.startswith("-") and script != "-":
        raise UsageError(f"no such option: {script}", f"`sandbox-build run --help`; a script: ./{script}")
    root = jailrun.unpack(path, cache())
    if code is not None:
        rest = [*((script,) if script else ()), *arguments]
        outcome = jailrun.run(root, ["-c", code, *rest], timeout_s=timeout_s)
    elif script in (None, "-"):
        outcome = jailrun.run(root, ["-", *arguments], timeout_s=timeout_s)
    else:
        with _open(Path(str(script))) as file:
            outcome = jailrun.run(root, list(arguments), code=file, timeout_s=timeout_s)
    if status:
        # On a line of its own, whatever the code left on stderr.
        said = {"stopped": outcome.stopped, "denied": [asdict(one) for one in outcome.denied]}
        click.echo("\n" + json.dumps(outcome.status | said), err=True)
    sys.exit(outcome.exit_code)


@commands.command(short_help="Say what this machine can do, and how to mend a lack.")
@json_option
@verbose_option
def doctor(as_json: bool, verbose: bool) -> None:  # noqa: ARG001 - verbose is read by main()
    """Say what this machine can do, and what to do about each lack.

    Exit code 3 where a lack makes every build impossible.
    """
    from builder.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'LACK'} {finding.name}: {finding.found}")
            if not finding.ok:
                click.echo(f"       needed for: {finding.needed_for}")
                if finding.hint:
                    click.echo(f"       hint: {finding.hint}")
    if any(finding.required and not finding.ok for finding in findings):
        sys.exit(3)


def _name(tag: str | None, push: str | None) -> str | None:
    """What --tag and --push say the image is called; None for the config's name."""
    if tag and push and tag != push:
        raise UsageError(f"--tag says {tag}, and --push says {push}", "give the name once: --push NAME:TAG")
    return push or tag


def _epoch(environ: Mapping[str, str]) -> int:
    """SOURCE_DATE_EPOCH (reproducible-builds.org), or our constant."""
    from builder.plan import DEFAULT_EPOCH

    text = environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return DEFAULT_EPOCH
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) >= 2**33:
        raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}", "it is a number of seconds since 1970")
    return int(text)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        hint = "name a script, or give the code with -c or on stdin"
        raise UsageError(f"{path}: {error.strerror}", hint) from None
