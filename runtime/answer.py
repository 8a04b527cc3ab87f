"""What is answered: always {"code", "message", "data"}, as dify-sandbox has it. Pure."""

from _json import encode_basestring
from binascii import b2a_base64

from runtime.image import json_encoder

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

    from runtime.run import Outcome

BAD_REQUEST, TOO_MANY_RUNS, INTERNAL, UNAVAILABLE = -400, -429, -500, -503
"""`code` of an answer that is no success."""
SIGSYS_EXIT = 128 + 31
NOT_PERMITTED = "error: operation not permitted"
MAX_NAMED = 20
"""So many denied calls stand in `error`; all of them are in `denied`."""


to_json = json_encoder(encode_basestring)
"""JSON in UTF-8: most of what is printed in other scripts than Latin takes half the bytes."""


def success(data: "Any") -> bytes:
    """The answer that has `data`."""
    return to_json({"code": 0, "message": "success", "data": data})


def failure(code: int, message: str) -> bytes:
    """The answer that has none: why is in `message`."""
    text = message.encode("utf-8", "replace").decode()
    return to_json({"code": code, "message": text, "data": None})


def run_data(outcome: "Outcome") -> "dict[str, Any]":
    """`data` of the answer to a run."""
    stderr = outcome.stderr.decode("utf-8", "replace")
    return {
        "stdout": outcome.stdout.decode("utf-8", "replace"),
        "stderr": stderr,
        "error": error_text(outcome, stderr),
        "exit_code": outcome.exit_code,
        "ended_by": outcome.ended_by,
        "duration_ms": _ms(outcome.duration_s),
        "cpu_ms": _ms(outcome.cpu_s),
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "denied": [
            {"call": one["call"], "line": one["line"], "allow": one["allow"], "count": one["count"]}
            for one in outcome.denied
        ],
        "stdout_truncated": outcome.stdout_truncated,
        "stderr_truncated": outcome.stderr_truncated,
        "outputs": {
            path: None if content is None else b2a_base64(content, newline=False).decode()
            for path, content in outcome.outputs.items()
        },
        "outputs_error": outcome.outputs_error,
    }


def run_facts(outcome: "Outcome") -> "dict[str, Any]":
    """What the log says of a run."""
    return {
        "wait_ms": round(outcome.wait_s * 1000, 1),
        "run_ms": round(outcome.duration_s * 1000, 1),
        "exit_code": outcome.exit_code,
        "ended_by": outcome.ended_by,
        "denied": [one["call"] for one in outcome.denied],
    }


def error_text(outcome: "Outcome", stderr: str) -> str:
    """`error`: empty where the exit code is 0; else what has happened, in our words, and the whole stderr."""
    if outcome.exit_code == 0:
        return ""
    lines = [f"process exited with code {outcome.exit_code}"]
    if outcome.exit_code == SIGSYS_EXIT and outcome.error and not outcome.ended_by:
        lines.append(f"{NOT_PERMITTED}: {outcome.error}")
    elif outcome.error:
        lines.append(f"error: {outcome.error}")
    if outcome.denied:
        lines.append(NOT_PERMITTED)
        lines += [_sentence(one) for one in outcome.denied[:MAX_NAMED]]
    if stderr:
        lines.append(stderr)
    return "\n".join(lines)


def _sentence(denied: "dict[str, Any]") -> str:
    where = f" at line {denied['line']} of the code" if denied["line"] else ""
    allow = denied["allow"]
    if allow:
        allow = f"; {allow}" if allow.startswith("nothing") else f"; to allow it: {allow}"
    return f"denied {denied['call']}{where}{allow}"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
