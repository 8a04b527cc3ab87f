"""A run with its status stream, and a call that it is denied."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from typing import Any

from builder.arch import host_arch
from tests.escape.conftest import Entrypoint

ARCH = host_arch().name
KILL = "import os\ndef denied():\n    try: os.kill(1, 0)\n    except OSError as error: return error.errno\n"
"""A denied call on line 3."""

NUMBER = {"amd64": 62, "arm64": 129}[ARCH]
WITHOUT_LINE = f"sandbox: denied kill ({NUMBER}, {ARCH}); to allow it: syscalls: {{groups: [signals]}}\n"
SENTENCE = WITHOUT_LINE.replace("; to", " at line 3 of the code; to")


@dataclass(frozen=True)
class Run:
    """How a run ended, and its status stream, line by line."""

    exit_code: int
    stdout: str
    stderr: str
    status: list[dict[str, Any]]

    @property
    def denied(self) -> list[dict[str, Any]]:
        return [line["denied"] for line in self.status if "denied" in line]

    @property
    def counts(self) -> dict[str, int]:
        """The last totals, by name of the call."""
        lines = [one for line in self.status for one in line.get("counts", [])]
        by_kind = {(name, allow): count for name, allow, count in lines}
        return {name: sum(n for (call, _), n in by_kind.items() if call == name) for name, _ in by_kind}


def run(entrypoint: Entrypoint, code: str, *options: str) -> Run:
    """Runs `code` with a status descriptor."""
    with tempfile.TemporaryFile("w+") as status:
        own = replace(entrypoint, pass_fds=(status.fileno(),))
        ended = own.start("--status-fd", str(status.fileno()), *options, "-c", code)
        status.seek(0)
        lines = [json.loads(line) for line in status]
    return Run(ended.exit_code, ended.stdout, ended.stderr, lines)
