"""Proof that a finished image's jail works: code runs in it, locked down, before anybody can pull it."""

from __future__ import annotations

import io
from pathlib import Path

from builder import jailrun
from builder.errors import SandboxError, VerificationFailed
from builder.plan import BuildPlan
from builder.policies import compiled
from builder.seccomp.check import check

_PROBE = "import sys; print('%d.%d.%d' % sys.version_info[:3])"


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


def smoke(root: Path) -> str:
    """The version of the interpreter that ran in the jail of the image unpacked at `root`.

    VerificationFailed with what it printed when it did not run to its end; any other SandboxError means
    that this machine cannot enter a jail at all.
    """
    stdout, stderr = io.BytesIO(), io.BytesIO()
    try:
        outcome = jailrun.run(root, ["-c", _PROBE], stdout=stdout, stderr=stderr, timeout_s=30)
    except SandboxError as error:
        said = stderr.getvalue().decode(errors="replace").strip()
        raise type(error)(f"{said}\n{error.message}".strip(), error.hint) from None
    if outcome.exit_code != 0:
        said = stderr.getvalue().decode(errors="replace").strip()
        raise VerificationFailed(
            f"the finished jail does not run Python (exit code {outcome.exit_code}):\n{said}",
            "exit codes 208 to 223 are the runtime's: docs/exit-codes.md",
        )
    return stdout.getvalue().decode().strip()
