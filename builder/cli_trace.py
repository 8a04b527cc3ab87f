"""`sandbox-build trace`."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from builder import jailrun
from builder.arch import ARCHES, Arch, host_arch, parse_arch
from builder.cli_options import (
    cache,
    config_option,
    image_option,
    json_option,
    output_option,
    own_image,
    timeout_option,
    verbose_option,
)
from builder.config_edit import write_allowed
from builder.errors import BuildError, ToolMissing, UsageError
from builder.progress import Progress
from builder.trace import Source, Trace, as_data, make_trace, render_text, repeat
from builder.tree.spec import SANDBOX_PATH

_MAX_CODE_BYTES = 16 * 1024 * 1024 + 1
"""More than the runtime takes: it refuses what is cut off here."""

_RUN_MODULE = """\
import runpy, sys
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Runs the module that its argument names, as `python -m` does."""


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    short_help="Find out which system calls code needs beyond the policy.",
)
@click.option("-c", "code", metavar="CODE", help="Code to trace, in place of a script.")
@click.option("-m", "module", metavar="MODULE", help="A module of the jail to trace, as `python -m` runs it.")
@image_option
@output_option
@timeout_option
@click.option(
    "--runs",
    "most_runs",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Run until a run shows nothing new, at most N times; what all of them need is the result.",
)
@click.option(
    "--arch",
    metavar="|".join(ARCHES),
    callback=lambda _ctx, _param, name: parse_arch(name) if name else host_arch(),
    help="Translate the names to this architecture. The code runs on this machine's all the same.",
)
@click.option("--write", is_flag=True, help="Allow it in the config file itself, and print the change.")
@config_option
@click.option("--unsafe", is_flag=True, help="Allow dangerous calls too.")
@json_option
@verbose_option
@click.argument("script", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def trace(
    code: str | None,
    module: str | None,
    image: Path | None,
    output: Path,
    timeout_s: float | None,
    most_runs: int,
    arch: Arch,
    write: bool,
    config_path: Path,
    unsafe: bool,
    as_json: bool,
    verbose: bool,
    script: str | None,
    arguments: tuple[str, ...],
) -> None:
    """Run code in the jail of a built image, let through what the policy denies, and print what that was.

    \b
      sandbox-build trace script.py ARG...     (stdin is the script's own)
      sandbox-build trace -c 'import numpy'
      sandbox-build trace -m pytest /path/in/the/jail/test_it.py::test_one
      sandbox-build trace --write script.py    then: sandbox-build, and the script runs

    stdout has the result alone: what the code prints on its stdout comes on stderr. Dangerous calls stay
    denied. With --runs, stdin is a file that each run reads from where it stands, or empty.

    Ends with 0 once the code was traced, however it ended, which is said; 1 where the jail could not be
    entered, 2 for a wrong call or a config that cannot be edited, 3 where the kernel does not name calls.
    """
    progress = Progress(verbose=verbose)
    path = own_image(image, output, "trace this machine's own image, with --arch {arch}")
    program = _program(code, module, script, arguments)
    root = jailrun.unpack(path, cache())
    calls = _calls(root, path)
    stdin = subprocess.DEVNULL if program.reads_stdin else _stdin(most_runs, progress)
    runs = repeat(lambda: _run(root, program, stdin, timeout_s), most_runs)
    result = make_trace(runs, calls, program.source, str(path), arch, host_arch())
    if result.ended:
        progress.warn(f"the code ended with {result.ended}: what it did not come to is not in the trace")
    if not result.whole:
        progress.warn("the supervisor did not end in good order: calls may be missing, and counts too low")
    if result.settled is False:
        progress.warn(f"run {result.runs} still added something: try more with --runs")
    if as_json:
        click.echo(json.dumps(as_data(result), indent=1))
    else:
        click.echo(render_text(result, unsafe=unsafe), nl=False)
    if write:
        _write(config_path, result, unsafe, progress)


@dataclass(frozen=True)
class _Program:
    """What is run."""

    arguments: tuple[str, ...]
    """The entrypoint's."""
    source: Source
    code: bytes | None = None
    """What the entrypoint reads from a descriptor; None where the code is among the arguments."""
    reads_stdin: bool = False


def _program(code: str | None, module: str | None, script: str | None, rest: tuple[str, ...]) -> _Program:
    if code is not None and module is not None:
        raise UsageError("-c and -m are both given", "trace one of the two")
    if code is not None or module is not None:
        rest = (*((script,) if script is not None else ()), *rest)
    if code is not None:
        return _Program(("-c", code, *rest), Source("-c", code))
    if module is not None:
        return _Program(("-c", _RUN_MODULE, module, *rest), Source(f"-m {module}", is_module=True))
    if script is None or script == "-":
        read = sys.stdin.buffer.read(_MAX_CODE_BYTES)
        return _Program(rest, Source("stdin", read.decode(errors="replace")), read, reads_stdin=True)
    if script.startswith("-"):
        raise UsageError(f"no such option: {script}", f"`sandbox-build trace --help`; a script: ./{script}")
    try:
        with Path(script).open("rb") as file:
            read = file.read(_MAX_CODE_BYTES)
    except OSError as error:
        hint = "name a script, a module with -m, or give the code with -c or on stdin"
        raise UsageError(f"{script}: {error.strerror}", hint) from None
    return _Program(rest, Source(script, read.decode(errors="replace")), read)


def _calls(root: Path, image: Path) -> dict[str, Any]:
    """What the image knows of the calls that its policy denies."""
    folder = root / SANDBOX_PATH.lstrip("/")
    try:
        facts = json.loads((folder / "calls.json").read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{image}: its calls have no names yet", "build the image again") from None
    return dict(facts["calls"])


def _stdin(most_runs: int, progress: Progress) -> int | None:
    """What each run reads: ours, where that can be read as often as there are runs."""
    kind = os.fstat(0).st_mode
    if most_runs == 1 or stat.S_ISREG(kind) or os.isatty(0):
        return None
    if not stat.S_ISCHR(kind):  # /dev/null is as good as another one
        progress.warn("with --runs, stdin must be a file: each run gets an empty one")
    return subprocess.DEVNULL


def _run(root: Path, program: _Program, stdin: int | None, timeout_s: float | None) -> jailrun.Outcome:
    start = os.lseek(0, 0, os.SEEK_CUR) if stdin is None and stat.S_ISREG(os.fstat(0).st_mode) else None
    with tempfile.TemporaryFile() as code:
        code.write(program.code or b"")
        code.seek(0)
        outcome = jailrun.run(
            root,
            program.arguments,
            code=code if program.code is not None else None,
            stdin=stdin,
            timeout_s=timeout_s,
            stdout=sys.stderr.buffer,
            trace=True,
        )
    if start is not None:
        os.lseek(0, start, os.SEEK_SET)
    if "refused" in outcome.status:
        raise BuildError(
            f"the lock-down was refused (exit code {outcome.status['refused']}; its own message is above)",
            "docs/exit-codes.md says what each code means",
        )
    if not outcome.status:
        raise BuildError("the time was over before the code began", "give it more with --timeout")
    if not outcome.status.get("naming"):
        raise ToolMissing(
            "denied calls have no names on this machine, so that nothing can be traced",
            "trace on Linux 5.7 or later, not in gVisor",
        )
    return outcome


def _write(config_path: Path, result: Trace, unsafe: bool, progress: Progress) -> None:
    if result.unsafe and not unsafe:
        names = ", ".join(result.unsafe.unsafe)
        progress.warn(f"not written to {config_path}, since it is dangerous: {names}; --unsafe writes it too")
    wanted = result.config | result.unsafe if unsafe else result.config
    if not wanted:
        return
    change = write_allowed(config_path, wanted)
    if change:
        click.echo(change, nl=False, err=True)
        progress.note(f"{config_path} is changed: build the image again, and the code may do all this")
    else:
        progress.note(f"{config_path} allows all this already: build the image again")
