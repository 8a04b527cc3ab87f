"""`lambda`: the image as a function of AWS Lambda's, against a strict double of the runtime API."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator

import pytest

from tests.serve.conftest import KEY, Serving
from tests.serve.lambdafunction import AS_LAMBDA, SECRET, Function, Start, request, starter

SECRETS = f"""
import os
found = []
for name in filter(str.isdigit, os.listdir("/proc")):
    with open(f"/proc/{{name}}/environ", "rb") as file:
        if b"{SECRET[:8]}" b"{SECRET[8:]}" in file.read():
            found.append(int(name))
print(found == [os.getpid()])
"""


@pytest.fixture
def start(loaded_image: str) -> Iterator[Start]:
    """Starts environments of the shipped config's image; at the end none of them has broken a rule."""
    yield from starter(loaded_image)


@pytest.fixture(scope="module")
def function(loaded_image: str) -> Iterator[Function]:
    """One, as Lambda would have it, without a key, that tests share."""
    for start in starter(loaded_image):
        shared = start(*AS_LAMBDA)
        shared.wait_until_ready()
        yield shared


def test_an_event_is_a_request_and_its_answer_the_answer(start: Start, serving: Serving) -> None:
    """What HTTP answers to the same body, measurements apart, with files and all."""
    body = request(
        "import sys\nprint(input(), open('a/b').read())\nopen('out', 'w').write('x')\nsys.exit(3)",
        stdin="in",
        files={"a/b": base64.b64encode(b"file").decode()},
        outputs=["out", "none"],
        timeout_s=4,
    )
    answer = start().double.invoke(body)
    status, _, expected = serving().post("/v1/sandbox/run", body)
    assert (status, answer.kind) == (200, "response")
    for one in (answer.body, expected):
        for measured in ("duration_ms", "cpu_ms", "peak_memory_bytes"):
            assert one["data"].pop(measured) > 0
    assert answer.body == expected
    assert expected["data"]["stdout"] == "in file\n"
    assert expected["data"]["outputs"] == {"out": "eA==", "none": None}


def test_it_runs_as_lambda_runs_it(function: Function) -> None:
    """An ordinary user, no capability, nothing to write but /tmp: Landlock confines, and says so."""
    seen = function.run("import os; print(os.getuid()); os.listdir('/')")
    assert (seen["stdout"], seen["exit_code"]) == ("993\n", 1)
    assert "PermissionError" in seen["stderr"]
    (ready,) = function.log("ready")
    assert ready["privilege_level"] == "landlock"
    assert ready["landlock_abi"] > 0


def test_without_a_private_folder_files_are_refused(function: Function) -> None:
    """With the reason; where the jail's /tmp cannot be written there is none, and the code is not begun."""
    data = function.run("print('begun')", files={"a": "eA=="}, outputs=["b"])
    assert (data["exit_code"], data["stdout"], data["outputs"]) == (1, "", {"b": None})
    assert "there is no private folder" in data["error"]
    assert not function.log("ready")[0]["scratch"]["private"]


def test_the_credentials_are_nowhere(start: Start) -> None:
    """Neither in a run's environment nor in any process's, but for the one that docker gives them to."""
    function = start("--cap-add=SYS_PTRACE")  # so that root may look into every process
    assert SECRET not in function.run("import os; print(dict(os.environ))")["stdout"]
    assert function.server.python(SECRETS).strip() == "True"


def test_a_frozen_environment_goes_on(function: Function) -> None:
    """Frozen as Lambda does it, between two invocations, for longer than any of our timers."""
    for number in range(3):
        assert function.run(f"print({number})")["stdout"] == f"{number}\n"
        function.docker("pause")
        time.sleep(2.5)
        function.docker("unpause")
    assert function.run("print('fine')", deadline_s=3)["stdout"] == "fine\n"


def test_a_run_is_over_before_the_deadline(function: Function) -> None:
    """With what it has printed; the double itself minds the deadline."""
    data = function.run("import time\nprint('begun', flush=True)\ntime.sleep(60)", deadline_s=1.0)
    assert (data["exit_code"], data["ended_by"], data["stdout"]) == (-1, "timeout", "begun\n")
    assert "error: timeout" in data["error"]


def test_worker_timeout_and_timeout_s_hold_before_it(start: Start) -> None:
    """The least of the three counts."""
    function = start(WORKER_TIMEOUT="0.5")
    sleep = "import time\ntime.sleep(60)"
    for fields in ({}, {"timeout_s": 0.2}):
        data = function.run(sleep, **fields)
        assert (data["ended_by"], data["exit_code"]) == ("timeout", -1)
        assert data["duration_ms"] < 5000


def test_a_deadline_that_leaves_nothing_is_said(function: Function) -> None:
    """Nothing is begun that could not be answered."""
    answer = function.double.invoke(request("print(1)"), deadline_s=0.08)
    assert (answer.kind, answer.error_type) == ("error", "Function.DeadlineTooClose")


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"language": "python3"}, "code: is missing"),
        ({"language": "cobol", "code": "1"}, "language: 'cobol' is not known"),
        ([], "no object"),
        (b'{"language": "python3", "code": "1", "code": "2"}', "twice"),
        ({"Records": [{"eventSource": "aws:sqs"}]}, "code: is missing"),
    ],
)
def test_a_mistake_is_an_answer(function: Function, event: object, message: str) -> None:
    """As over HTTP, and no error of the function's."""
    answer = function.double.invoke(event)
    assert (answer.kind, answer.body["code"], answer.body["data"]) == ("response", -400, None)
    assert message in answer.body["message"]


def test_a_url_needs_the_key(start: Start) -> None:
    """An HTTP request is answered where it has the key; an invocation needs none, as IAM has let it in."""
    function = start(API_KEY=KEY)
    body = json.dumps(request("print(6 * 7)"))
    for headers in ({}, {"x-api-key": "other"}, {"X-Api-Key": f"{KEY},{KEY}"}):
        assert function.post(body, headers=headers) == (401, None)
    status, answer = function.post(body, headers={"X-Api-Key": KEY})
    assert (status, answer["data"]["stdout"]) == (200, "42\n")
    assert function.run("print(1)")["stdout"] == "1\n"


@pytest.mark.parametrize("key", ["", "dify-sandbox"])
def test_a_url_without_a_key_needs_somebody_who_vouches(start: Start, key: str) -> None:
    """No key, or the one that everybody knows, is no door: AWS must have checked who it is."""
    function = start(API_KEY=key)
    body = json.dumps(request("print(6 * 7)"))
    assert function.post(body, headers={"x-api-key": key}) == (401, None)
    assert "no API key is configured" in function.log("refused")[0]["reason"]
    iam = {"http": {"method": "POST"}, "authorizer": {"iam": {"userArn": "arn:aws:iam::123456789012:user/a"}}}
    assert function.post(body, requestContext=iam)[1]["data"]["stdout"] == "42\n"


def test_every_form_of_an_http_request(start: Start) -> None:
    """Base64, a form, API Gateway's older format; what is no POST, or cannot be read, has its own status."""
    function = start(API_KEY=KEY)
    body = json.dumps(request("print('ä')"), ensure_ascii=False)
    known = {"x-api-key": KEY}
    encoded = base64.b64encode(body.encode()).decode()
    form = {**known, "content-type": "application/x-www-form-urlencoded"}
    old = {
        "httpMethod": "POST",
        "requestContext": {"stage": "prod"},
        "multiValueHeaders": {"X-Api-Key": [KEY]},
    }
    for answer in (
        function.post(body, headers=known),
        function.post(encoded, headers=known, isBase64Encoded=True),
        function.post("language=python3&code=print('%C3%A4')", headers=form),
        function.post(body, **old),
    ):
        assert answer[0] == 200, answer
        assert answer[1]["data"]["stdout"] == "ä\n"
    get = {"http": {"method": "GET"}}
    assert function.post(body, headers=known, requestContext=get)[0] == 405
    assert function.post("%", headers=known, isBase64Encoded=True)[0] == 400
    assert function.post("<xml/>", headers={**known, "content-type": "text/xml"})[0] == 415
    assert function.post("{}", headers=known)[1]["code"] == -400


def test_an_answer_that_lambda_would_not_take(start: Start) -> None:
    """6 MB is the most: beyond, there is an error that says what to do, and the next event is fine."""
    function = start(API_KEY=KEY)
    code = "print('x' * 7_000_000)"
    answer = function.double.invoke(request(code))
    assert (answer.kind, answer.error_type) == ("error", "Function.ResponseSizeTooLarge")
    assert "limits.output" in answer.body["errorMessage"]
    status, body = function.post(json.dumps(request(code)), headers={"x-api-key": KEY})
    assert (status, body["code"]) == (500, -500)
    assert len(function.run("print('x' * 6_000_000)")["stdout"]) == 6_000_001


def test_an_event_of_6_mb(function: Function) -> None:
    """As large as Lambda lets it be, in parts."""
    function.double.chunked = True
    data = function.run("print(len(input()))", stdin="x" * 6_000_000)
    function.double.chunked = False
    assert data["stdout"] == "6000000\n"


def test_the_log_has_the_request_and_none_of_what_is_private(start: Start) -> None:
    """One line an invocation, that leads to Lambda's own; neither code, output nor key."""
    function = start(API_KEY=KEY)
    trace = {"x-api-key": KEY, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    function.post(json.dumps(request("print('confi' + 'dential')")), headers={**trace, "X-User-ID": "u1"})
    sent = function.double.send(request("import os\nos.system('confidential')"))
    assert sent.answers.get(timeout=20).kind == "response"
    first, second = function.log("invocation", 2)
    assert (first["user_id"], first["trace_id"]) == ("u1", "0af7651916cd43dd8448eb211c80319c")
    assert (first["status"], first["exit_code"], first["denied"]) == (200, 0, [])
    assert (second["request_id"], second["denied"]) == (sent.id, ["clone"])
    logged = function.server.logs()
    assert not [word for word in ("confidential", KEY, SECRET) if word in logged]
