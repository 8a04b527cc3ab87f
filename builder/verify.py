"""Proof that a finished image's jail works: code runs in it, locked down, before anybody can pull it."""

from __future__ import annotations

import io
from pathlib import Path

from builder import jailrun
from builder.errors import SandboxError, VerificationFailed

_PROBE = "import sys; print('%d.%d.%d' % sys.version_info[:3])"


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
