"""Proof that a finished image's jail works: code runs in it, locked down, before anybody can pull it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from builder import jailrun
from builder.errors import SandboxError, VerificationFailed
from builder.plan import BuildPlan
from builder.policies import compiled
from builder.seccomp.check import check

PROBE = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
"""Prints the interpreter's version."""

_PROBE_S = 30
_PROBE_BYTES = 1 << 20


def filters(plan: BuildPlan) -> None:
    """Evaluates the plan's compiled filters for every system call and beside every condition.

    VerificationFailed where one does not say what the policy says, which is then a fault of libseccomp.
    """
    made = compiled(plan)
    report = check(made.programs, made.policy, (), channel=made.channel, on_kernel=False)
    if report.disagreements:
        one = report.disagreements[0]
        raise VerificationFailed(
            f"the compiled policy is wrong in {len(report.disagreements)} cases: {one.program}: {one.call}: "
            f"wanted {one.wanted}, got {one.got}",
            "take conditions out of syscalls: {allow, deny}, or install another libseccomp",
        )


@dataclass(frozen=True)
class Smoke:
    """A jail in which code runs."""

    version: str
    """Of its Python."""
    level: str
    """chroot or landlock: what was in force on this machine."""


def smoke(root: Path) -> Smoke:
    """Runs a few words of Python in the jail of the image unpacked at `root`.

    VerificationFailed with what it printed when it did not run to its end; any other SandboxError means
    that this machine cannot enter a jail at all.
    """
    stdout, stderr = io.BytesIO(), io.BytesIO()
    try:
        outcome = jailrun.run(
            *(root, ["-c", PROBE]),
            stdout=stdout,
            stderr=stderr,
            timeout_s=_PROBE_S,
            limit_bytes=_PROBE_BYTES,
            env={},
        )
    except SandboxError as error:
        said = stderr.getvalue().decode(errors="replace").strip()
        if isinstance(error, jailrun.NotEntered) and jailrun.can_enter(root):
            raise _no_python(error.code, said) from None
        error.message = f"{said}\n{error.message}".strip()
        raise
    if outcome.exit_code != 0:
        raise _no_python(outcome.exit_code, stderr.getvalue().decode(errors="replace").strip())
    version = stdout.getvalue().decode(errors="replace").strip()
    return Smoke(version, str(outcome.status.get("level")))


def _no_python(exit_code: int, said: str) -> VerificationFailed:
    return VerificationFailed(
        f"the finished jail does not run Python (exit code {exit_code}):\n{said}",
        "exit codes 208 to 223 are the runtime's: docs/exit-codes.md",
    )
