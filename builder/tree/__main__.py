"""The assembler as a program: what a Dockerfile runs, and what the oci driver runs without Docker."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from builder.errors import ConfigError, LibrariesMissing, SandboxError, printable
from builder.tree.assemble import assemble
from builder.tree.spec import TreeSpec

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Assembles as the arguments say and returns the exit code.

    `progress:` and `warning:` lines go to stdout, `error:` and `hint:` lines to stderr.
    """
    parser = argparse.ArgumentParser(prog="assembler", description="Assemble the jail tree from a base.")
    for name, meaning in (
        ("--root", "root filesystem of the base, for the target architecture"),
        ("--spec", "spec.json"),
        ("--runtime", "folder with the runtime's modules and _syscall.abi3.so"),
        ("--policy", "compiled filter"),
        ("--out", "folder to make; it must not exist"),
    ):
        parser.add_argument(name, type=Path, required=True, help=meaning)
    parser.add_argument("--packages", type=Path, help="folder with the locked packages")
    parser.add_argument("--bytecode", type=Path, help="cache of what was compiled earlier")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        # A file name that is not UTF-8 must not end the assembly.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # typed as TextIO
    try:
        spec = TreeSpec.from_json(options.spec.read_text(encoding="utf-8"))
        report = assemble(
            spec,
            root=options.root,
            runtime=options.runtime,
            policy=options.policy,
            out=options.out,
            packages=options.packages,
            bytecode=options.bytecode,
            progress=lambda text: print(f"progress: {printable(text)}", flush=True),
        )
        for warning in report.warnings:
            print(f"warning: {printable(warning)}", flush=True)
    except ConfigError as error:
        for message, hint in error.problems:
            _say(message, hint)
        return error.exit_code
    except LibrariesMissing as error:
        for missing in error.missing:
            print(f"missing: {json.dumps({'base': error.base, **asdict(missing)})}", file=sys.stderr)
        return error.exit_code
    except SandboxError as error:
        _say(error.message, error.hint)
        return error.exit_code
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}", None)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _say(message: str, hint: str | None) -> None:
    # One line each, whatever a file of the base is called: whoever reads them goes by how a line begins.
    print(f"error: {printable(message)}", file=sys.stderr)
    if hint is not None:
        print(f"hint: {printable(hint)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
