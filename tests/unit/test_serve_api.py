"""The fields of a request and the answer to it, as values: no server."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, cast

import pytest

from runtime.answer import error_text, failure, run_data, success
from runtime.body import Mistake
from runtime.fields import MAX_FILES, MAX_OUTPUTS, check_language, read_job
from runtime.run import Job, Outcome
from runtime.sse import wants_stream

if TYPE_CHECKING:
    from runtime.settings import Settings

LIMITS = {
    "memory_bytes": 1 << 30,
    "cpu_s": 10,
    "file_size_bytes": 1 << 20,
    "processes": 64,
    "open_files": 256,
    "output_bytes": 1 << 20,
    "scratch_bytes": 1 << 20,
}


class Facts:
    """What read_job wants to know of the settings."""

    def __init__(self, network: bool = False, preload: bool = False) -> None:
        self.image = {"limits": LIMITS, "network": network}
        self.timeout_s = 5.0
        self.preload = preload
        self.env_allow = ["LANG", "TOKEN"]


def job(fields: dict[str, Any], **facts: bool) -> Job:
    return read_job({"language": "python3", "code": "pass", **fields}, cast("Settings", Facts(**facts)))


def mistake(fields: dict[str, Any], **facts: bool) -> str:
    """Why these fields are refused, with the HTTP status that dify-sandbox gives it."""
    with pytest.raises(Mistake) as wrong:
        job(fields, **facts)
    assert wrong.value.status == 200
    return str(wrong.value)


def test_what_dify_sends() -> None:
    """Its four fields; null counts as left out, and fields that nobody knows are passed over."""
    wanted = job({"code": "print('ä')", "preload": "", "enable_network": True, "dependencies": [], "x": {}})
    assert wanted.code == "print('ä')".encode()
    assert (wanted.preload, wanted.stdin, wanted.files, wanted.outputs) == (b"", b"", {}, [])
    assert (wanted.env, wanted.timeout_s, wanted.limits, wanted.fresh) == ({}, None, {}, False)
    nothing = dict.fromkeys(
        ("preload", "enable_network", "stdin", "files", "outputs", "env", "timeout_s", "limits", "fresh")
    )
    assert vars(job(nothing)) == vars(job({}))


def test_what_goes_beyond() -> None:
    """Every field arrives."""
    wanted = job(
        {
            "stdin": "in\u2028",
            "files": {"a/b": "aGk=", "c": ""},
            "outputs": ["out/x.png", "-"],
            "timeout_s": 2,
            "limits": {"memory": 16 << 20, "cpu_s": 1, "output": 0, "processes": 64},
            "env": {"LANG": "C", "TOKEN": ""},
            "fresh": True,
        }
    )
    assert wanted.stdin == "in\u2028".encode()
    assert wanted.files == {"a/b": b"hi", "c": b""}
    assert wanted.outputs == ["out/x.png", "-"]
    assert wanted.timeout_s == 2.0
    assert wanted.limits == {"memory_bytes": 16 << 20, "cpu_s": 1, "output_bytes": 0, "processes": 64}
    assert wanted.env == {"LANG": "C", "TOKEN": ""}
    assert wanted.fresh


def test_preload_is_passed_over_unless_enabled() -> None:
    """But is to be text all the same."""
    assert job({"preload": "x = 1"}).preload == b""
    assert job({"preload": "x = 1"}, preload=True).preload == b"x = 1"
    assert mistake({"preload": 1}).startswith("preload: ")


def test_network() -> None:
    """Asked for where there is none: the code gets none. Declined where there is one: no run."""
    for asked in (True, None, "true", "1", ""):
        assert job({"enable_network": asked}).code == b"pass"
        assert asked == "" or job({"enable_network": asked}, network=True).code == b"pass"
    assert job({"enable_network": False}).code == b"pass"
    for declined in (False, "false", "0", "F"):
        assert mistake({"enable_network": declined}, network=True).startswith("enable_network: ")


def test_languages() -> None:
    """HTTP 400 for one that is not run, as with dify-sandbox; one that is missing is a missing field."""
    check_language({"language": "python3"})
    for language in ("nodejs", "python", "PYTHON3", " python3", "\ud800"):
        with pytest.raises(Mistake) as wrong:
            check_language({"language": language})
        assert wrong.value.status == 400
    assert mistake({"language": ""}) == "language: is missing"
    assert mistake({"language": None}) == "language: is missing"
    assert mistake({"language": ["python3"]}) == "language: is to be text"
    assert mistake({"language": "ruby", "code": ""}) == "code: is missing"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("code", None),
        ("code", ""),
        ("code", 1),
        ("code", ["pass"]),
        ("code", "\ud800"),
        ("code", "a\udfff"),
        ("stdin", 1),
        ("stdin", "\ud800"),
        ("enable_network", "yes"),
        ("enable_network", 1),
        ("fresh", "on"),
        ("fresh", []),
        ("timeout_s", 0),
        ("timeout_s", -1),
        ("timeout_s", 5.001),
        ("timeout_s", 10**400),
        ("timeout_s", float("inf")),
        ("timeout_s", float("nan")),
        ("timeout_s", True),
        ("timeout_s", "fast"),
        ("timeout_s", "nan"),
        ("timeout_s", "\u0665\ud800"),
        ("timeout_s", [1]),
        ("limits", []),
        ("limits", 1),
        ("limits", False),
        ("limits", {"memory": (1 << 30) + 1}),
        ("limits", {"memory": (16 << 20) - 1}),
        ("limits", {"memory": True}),
        ("limits", {"memory": "1GiB"}),
        ("limits", {"cpu_s": 1.5}),
        ("limits", {"processes": 0}),
        ("limits", {"open_files": 15}),
        ("limits", {"output": -1}),
        ("limits", {"memory_bytes": 1 << 20}),
        ("limits", {"\ud800": 1}),
        ("env", "A=b"),
        ("env", 0),
        ("env", {"PATH": "/"}),
        ("env", {"LD_PRELOAD": "/"}),
        ("env", {"lang": "C"}),
        ("env", {"LANG": 1}),
        ("env", {"LANG": None}),
        ("env", {"LANG": "a\0b"}),
        ("env", {"LANG": "\ud800"}),
        ("env", {"LANG": "a" * 200_000}),
        ("files", []),
        ("files", {"a": None}),
        ("files", {"a": 1}),
        ("files", {"a": "aGk"}),
        ("files", {"a": "aGk=\n"}),
        ("files", {"a": "aGk=aGk="}),
        ("files", {"a": "ä"}),
        ("files", {"a": "\ud800"}),
        ("files", {"a": "", "a/b": ""}),
        ("files", {"a/b/c": "", "a": ""}),
        ("files", {str(number): "" for number in range(MAX_FILES + 1)}),
        ("outputs", {}),
        ("outputs", "a"),
        ("outputs", 0),
        ("outputs", ["a", "a"]),
        ("outputs", [1]),
        ("outputs", [None]),
        ("outputs", [["a"]]),
        ("outputs", [str(number) for number in range(MAX_OUTPUTS + 1)]),
    ],
)
def test_fields_that_are_wrong(field: str, value: object) -> None:
    """Each is refused with its name in front."""
    assert re.match(rf"{field}[.:]", mistake({field: value}))


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/etc/passwd", ".", "..", "../a", "a/..", "a/../b", "./a", "a/.", "a//b", "a/", "a\0b"),
        *("a\ud800", "a" * 256, "/".join("a" * 33), "ä" * 128, "a/" * 600 + "a"),
    ],
)
def test_paths_that_lead_elsewhere(path: str) -> None:
    """Or nowhere: refused, as a file and as an output."""
    assert mistake({"files": {path: ""}}).startswith("files: ")
    assert mistake({"outputs": [path]}).startswith("outputs: ")


@pytest.mark.parametrize("path", ["a", "...", "..a", "-", " ", "a\nb", "ä/中", "a" * 255, "/".join("a" * 32)])
def test_paths_that_are_odd(path: str) -> None:
    """But lead nowhere else."""
    assert list(job({"files": {path: ""}, "outputs": [path]}).files) == [path]


def test_fields_of_forms_are_more_than_text() -> None:
    """JSON where a field is an object or a list."""
    wanted = job(
        {
            "timeout_s": "2.5",
            "fresh": "true",
            "files": '{"a": "aGk="}',
            "outputs": '["a"]',
            "limits": '{"cpu_s": 2}',
            "env": '{"LANG": "C"}',
        }
    )
    assert (wanted.timeout_s, wanted.fresh, wanted.files) == (2.5, True, {"a": b"hi"})
    assert (wanted.outputs, wanted.limits, wanted.env) == (["a"], {"cpu_s": 2}, {"LANG": "C"})
    for field in ("files", "limits", "env", "outputs"):
        assert mistake({field: "[1"}).startswith(f"{field}: ")
        assert job({field: ""}).files == {}


# Answers


def outcome(**facts: Any) -> Outcome:
    result = Outcome()
    vars(result).update(facts)
    return result


DENIED = {"call": "clone", "number": 56, "line": 3, "allow": "syscalls: {groups: [processes]}", "count": 2}


@pytest.mark.parametrize(
    ("facts", "stderr", "error"),
    [
        ({}, "a warning\n", ""),
        ({"denied": [DENIED]}, "", ""),
        ({"exit_code": 1}, "", "process exited with code 1"),
        ({"exit_code": 7}, "log\nlog\n", "process exited with code 7\nlog\nlog\n"),
        (
            {"exit_code": -1, "ended_by": "timeout", "error": "timeout"},
            "x",
            "process exited with code -1\nerror: timeout\nx",
        ),
        (
            {"exit_code": 1, "denied": [DENIED]},
            "Traceback",
            "process exited with code 1\nerror: operation not permitted\ndenied clone at line 3 of the code; "
            "to allow it: syscalls: {groups: [processes]}\nTraceback",
        ),
        (
            {"exit_code": 1, "denied": [{**DENIED, "line": None, "allow": "nothing allows it"}]},
            "",
            "process exited with code 1\nerror: operation not permitted\ndenied clone; nothing allows it",
        ),
        (
            {"exit_code": 159, "error": "the policy kills for it"},
            "",
            "process exited with code 159\nerror: operation not permitted: the policy kills for it",
        ),
    ],
)
def test_the_error(facts: dict[str, Any], stderr: str, error: str) -> None:
    """Empty with exit code 0, whatever is on stderr; else dify-sandbox's words, ours, and all of stderr."""
    assert error_text(outcome(**facts), stderr) == error


def test_the_error_names_so_many_calls() -> None:
    """All of them are in `denied`, without what nobody asked for."""
    data = run_data(outcome(exit_code=1, denied=[{**DENIED, "call": f"call{at}"} for at in range(60)]))
    assert "denied call19 " in data["error"]
    assert "denied call20 " not in data["error"]
    assert data["denied"][59] == {"call": "call59", "line": 3, "allow": DENIED["allow"], "count": 2}
    assert len(data["denied"]) == 60


def test_the_answer_is_json_in_utf_8() -> None:
    """Whatever was printed: what is not UTF-8 is U+FFFD, files are Base64."""
    printed = 'ä中😀"\\\x00\x7f\u2028'.encode() + b"\xff\xc3"
    answer = success(
        run_data(outcome(stdout=printed, outputs={"a": b"\xff\0", "b": None}, outputs_error={"b": "no"}))
    )
    assert "ä中😀" in answer.decode()
    read = json.loads(answer)
    assert (read["code"], read["message"]) == (0, "success")
    assert read["data"]["stdout"] == 'ä中😀"\\\x00\x7f\u2028\ufffd\ufffd'
    assert (read["data"]["outputs"], read["data"]["outputs_error"]) == ({"a": "/wA=", "b": None}, {"b": "no"})
    assert read["data"]["error"] == ""
    assert json.loads(failure(-400, "a\ud800")) == {"code": -400, "message": "a?", "data": None}


@pytest.mark.parametrize(
    ("accept", "stream"),
    [
        ("", False),
        ("*/*", False),
        ("text/event-stream", True),
        ("Text/Event-Stream; q=0.9, application/json", True),
        ("application/json, text/event-stream", False),
        ("text/html, text/event-stream", True),
        ("text/event-streams", False),
        ("text/*", False),
    ],
)
def test_who_wants_a_stream(accept: str, stream: bool) -> None:
    """Whoever names it, and did not name JSON before."""
    assert wants_stream(accept) is stream
