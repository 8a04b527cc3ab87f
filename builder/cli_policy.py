"""The commands of `sandbox-build policy`: parse and print; no logic."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import click

from builder.arch import ARCHES, Arch, host_arch, parse_arch
from builder.cli_options import (
    arch_option,
    cache,
    config_option,
    existing,
    json_option,
    load,
    verbose_option,
)
from builder.errors import BuildError, RegistryError, UsageError, VerificationFailed
from builder.progress import Progress

_FORMATS = ("docker", "spo", "pfc")
_MOST_SHOWN = 50

_F = TypeVar("_F", bound=Callable[..., object])


def _one_arch(_ctx: click.Context, _param: click.Parameter, name: str | None) -> Arch | None:
    return parse_arch(name) if name else None


def _one_arch_option(text: str) -> Callable[[_F], _F]:
    return click.option("--arch", metavar="|".join(ARCHES), callback=_one_arch, help=text)


@click.group(short_help="Show, compare, test and export the system calls that a config allows.")
def policy() -> None:
    """Show, compare, test and export the system calls that a config allows.

    \b
      sandbox-build policy show                     what is allowed, by which line of the config, and why
      sandbox-build policy diff IMAGE config.yaml   what a change of the config newly permits
      sandbox-build policy test                     the compiled filter does what the policy says
      sandbox-build policy export > profile.json    for docker run --security-opt seccomp=profile.json
    """


@policy.command(short_help="Print the policy in words, with reasons.")
@config_option
@arch_option
@json_option
@verbose_option
def show(config_path: Path, arches: tuple[Arch, ...], as_json: bool, verbose: bool) -> None:
    """Print the system calls that a config allows: which line brought each, why it is there, and when.

    \b
      sandbox-build policy show --arch arm64
      sandbox-build policy show --json | jq '.[0].allowed[] | select(.unsafe)'

    Dangerous calls come first, and are marked UNSAFE. The digest is that of policy.bpf in the image, and of
    the image's label sandbox-build.policy.digest.
    """
    from builder.plan import make_plan
    from builder.policies import compiled, places
    from builder.seccomp.describe import as_data, describe

    config = load(config_path, Progress(verbose=verbose))
    brought = places(config_path, config, os.environ)
    plans = [make_plan(config, arch) for arch in arches]
    if as_json:
        data = [as_data(plan.policy, plan.arch, brought, compiled(plan).digest) for plan in plans]
        click.echo(json.dumps(data, indent=1))
    else:
        texts = [describe(plan.policy, plan.arch, brought, compiled(plan).digest) for plan in plans]
        click.echo("\n".join(texts), nl=False)


@policy.command(short_help="Say what one policy permits that another does not; exit 1 if anything.")
@_one_arch_option("Architecture of configs and images. Default: the other side's, or this machine's.")
@json_option
@verbose_option
@click.argument("before")
@click.argument("after")
def diff(arch: Arch | None, as_json: bool, verbose: bool, before: str, after: str) -> None:
    """Say what AFTER permits and BEFORE does not, riskiest first, and what it no longer permits.

    Each is a config.yaml, an image.tar, a folder dist/ARCH, or an image: a name with a registry's host in it
    is read from that registry, any other, and an image's ID, from Docker Engine.

    \b
      sandbox-build policy diff dist/amd64 config.yaml
      git show main:config.yaml > old.yaml && sandbox-build policy diff old.yaml config.yaml
      sandbox-build policy diff registry.example/sandbox:1.0 registry.example/sandbox@sha256:...

    Conditions are compared by the calls that they let through, not by how they are written.

    Exit codes: 0 nothing is newly permitted, 1 something is, 2 usage or config, or a side that cannot be
    read: a tag that is not there, credentials that are refused, a registry that does not answer.
    """
    from builder.policies import arch_of, open_policy
    from builder.seccomp.diff import compare

    progress = Progress(verbose=verbose)
    # An archive says itself what it is for.
    default = arch or arch_of(before) or arch_of(after) or host_arch()
    try:
        one, other = (
            open_policy(name, arch or arch_of(name) or default, progress) for name in (before, after)
        )
    except (BuildError, RegistryError) as error:
        # As diff(1) has it: 1 would say that something is newly permitted.
        raise UsageError(error.message, error.hint) from error
    except OSError as error:
        raise UsageError(f"{before} or {after}: {error.strerror or error}") from error
    found = compare(one.policy, other.policy)
    if as_json:
        sides = {
            side: {"name": name, "arch": its.policy.arch.name, "digest": its.digest}
            for side, name, its in (("before", before, one), ("after", after, other))
        }
        click.echo(json.dumps(sides | asdict(found), indent=1))
    else:
        for note in found.notes:
            click.echo(f"note: {note}")
        for title, changes in (("newly permitted", found.newly), ("no longer permitted", found.no_longer)):
            click.echo(f"{title}: {len({change.call for change in changes}) or 'nothing'}")
            for line in _told(changes):
                click.echo(line)
    sys.exit(1 if found.newly else 0)


def _told(changes: Sequence) -> Iterator[str]:  # type: ignore[type-arg]
    from builder.seccomp.diff import risk

    for group, its in groupby(changes, key=lambda change: change.group):
        yield f"  {group.upper() if group == 'unsafe' else group}: {risk(group)}"
        for change in its:
            number = f" ({change.number})" if change.number is not None else ""
            level = f"at level {change.level}" if change.level else ""
            about = "; ".join(part for part in (level, change.reason) if part)
            yield f"    {change.call + number:<28}{about}".rstrip()
            for index, line in enumerate(change.when):
                yield f"    {'':<28}  {'when' if index == 0 else '  or'} {line}"


@policy.command(short_help="Try the compiled filter, and the kernel with it, call by call.")
@config_option
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="Try what an image.tar has, in place of what the config would come to.",
)
@arch_option
@click.option(
    "--kernel/--no-kernel",
    default=True,
    show_default=True,
    help="Have this machine's kernel answer too, for its own architecture. No call is executed.",
)
@json_option
@verbose_option
@click.argument("vectors", type=click.Path(path_type=Path), required=False)
def test(
    config_path: Path,
    image: Path | None,
    arches: tuple[Arch, ...],
    kernel: bool,
    as_json: bool,
    verbose: bool,
    vectors: Path | None,
) -> None:
    """Try the compiled filter on the whole system-call table, on our vectors and on yours.

    \b
      sandbox-build policy test
      sandbox-build policy test --image dist/amd64/image.tar vectors.yaml

    VECTORS is a file of calls with the answer that they must get:

    \b
      vectors:
        - {call: mkdirat, expect: allow}
        - {call: socket, arguments: [AF_INET, SOCK_STREAM, IPPROTO_TCP], expect: deny, why: no network}
        - {call: 59, arch: amd64, expect: deny}
        - {call: 20, abi: i386, expect: kill}

    `expect` is allow, deny, enosys or kill. images/python/vectors.yaml is such a file, and has every key.

    Each call is asked of an interpreter of the filter's instructions, for either architecture, and for this
    machine's of the kernel itself: the filter is loaded with only its answers replaced by error numbers.

    Exit codes: 0 all agree, 2 usage or config, 3 the kernel cannot load a filter, 4 a call is answered
    otherwise.
    """
    from builder import jailrun
    from builder.plan import make_plan
    from builder.policies import compiled, of_image
    from builder.seccomp.check import check
    from builder.seccomp.vectors import our_vectors, read_vectors

    progress = Progress(verbose=verbose)
    every = (*our_vectors(), *(read_vectors(vectors) if vectors else ()))
    if image is not None:
        tried = [of_image(image, jailrun.unpack(existing(image), cache()))]
    else:
        config = load(config_path, progress)
        tried = [compiled(make_plan(config, arch)) for arch in arches]
    reports = {
        one.policy.arch.name: check(one.programs, one.policy, every, channel=one.channel, on_kernel=kernel)
        for one in tried
    }
    if as_json:
        click.echo(json.dumps({name: asdict(report) for name, report in reports.items()}, indent=1))
    wrong = 0
    for name, report in reports.items():
        if not as_json:
            click.echo(
                f"{name}: {report.table} calls of the table and {report.vectors} vectors in"
                f" {report.programs} programs; the kernel was asked about {report.kernel}"
            )
            for text in report.set_aside:
                click.echo(f"  set aside, as the config says otherwise: {text}")
        for text in report.not_tried:
            progress.note(f"not tried on the kernel: {text}")
        for one in report.disagreements[:_MOST_SHOWN]:
            place = f"{one.where}: " if one.where else ""
            click.echo(
                f"{place}{one.call}: {one.wanted} is wanted, and the {one.who} says {one.got}"
                f" ({name}, {one.program})",
                err=True,
            )
        wrong += len(report.disagreements)
    if wrong:
        more = (
            f"; the first {_MOST_SHOWN} of each architecture are above, --json has all"
            if wrong > _MOST_SHOWN
            else ""
        )
        raise VerificationFailed(
            f"{wrong} calls are answered otherwise than they must be{more}",
            "a vector of yours: `sandbox-build policy show` says what the config allows",
        )


@policy.command(short_help="Write the policy for Docker, Kubernetes or people.")
@config_option
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="docker",
    show_default=True,
    help="docker: a profile for --security-opt; spo: a SeccompProfile for Kubernetes; pfc: pseudo code.",
)
@_one_arch_option("Architecture to write it for. Default: this machine's.")
@verbose_option
def export(config_path: Path, form: str, arch: Arch | None, verbose: bool) -> None:
    """Write the policy in a form that other programs load.

    \b
      sandbox-build policy export > profile.json
      docker run --security-opt seccomp=profile.json IMAGE -c 'print(1)'
      sandbox-build policy export --format spo | kubectl apply -f -
      sandbox-build policy export --format pfc --arch arm64 | less

    The profiles for engines hold the whole container, so they have the calls of its set-up too
    (images/python/setup.yaml says which, and why); the image still loads its own filter, which is narrower.
    What such a profile denies, the kernel denies before the sandbox is asked: those calls are not named.
    """
    from builder.plan import make_plan
    from builder.seccomp.export import export as write

    plan = make_plan(load(config_path, Progress(verbose=verbose)), arch or host_arch())
    name = plan.reference.rsplit("/", 1)[-1].partition(":")[0]
    click.echo(write(plan.policy, plan.arch, form, name), nl=False)
