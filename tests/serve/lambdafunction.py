"""An execution environment of AWS Lambda's: the image in a container, and a double of the runtime API."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.conftest import result_of
from tests.serve.conftest import Server
from tests.serve.lambdadouble import LambdaDouble

AS_LAMBDA = (
    *("--user=993:990", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only", "--tmpfs=/tmp"),
)
"""What Lambda's documents say of an environment: an ordinary user, and one folder that can be written."""
SECRET = "wJalrXUtnFEMI-K7MDENG"


class Function:
    """A container that is an execution environment, and the API that it has."""

    def __init__(self, image: str, options: tuple[str, ...], environment: dict[str, str]) -> None:
        self.double = LambdaDouble()
        self.server = Server(f"sandbox-tests-{secrets.token_hex(8)}", "", 0)
        variables = {
            "AWS_LAMBDA_RUNTIME_API": self.double.address,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            **environment,
        }
        command = ["docker", "run", "--detach", f"--name={self.server.container}", "--network=host"]
        command += [f"--env={name}={value}" for name, value in variables.items()]
        done = result_of([*command, *options, image, "lambda"], None, 60)
        assert done.exit_code == 0, done.stderr

    def wait_until_ready(self) -> None:
        assert self.double.ready.wait(30), self.server.logs()

    def run(self, code: str, *, deadline_s: float = 10.0, **fields: Any) -> dict[str, Any]:
        """Runs `code`, which the function must be able to; the answer's data."""
        answer = self.double.invoke(request(code, **fields), deadline_s=deadline_s)
        assert answer.kind == "response", answer
        assert answer.body["code"] == 0, answer
        data: dict[str, Any] = answer.body["data"]
        return data

    def post(self, body: str, **changed: Any) -> tuple[int, Any]:
        """Posts `body` as a function URL without authentication has it: the answer's status and JSON."""
        headers = {"content-type": "application/json", **changed.pop("headers", {})}
        context = {"accountId": "anonymous", "http": {"method": "POST", "path": "/"}}
        event = {"version": "2.0", "headers": headers, "requestContext": context, "body": body} | changed
        answer = self.double.invoke(event)
        assert answer.kind == "response", answer
        assert set(answer.body) == {"statusCode", "headers", "isBase64Encoded", "body"}
        return answer.body["statusCode"], json.loads(answer.body["body"] or "null")

    def docker(self, verb: str) -> None:
        done = result_of(["docker", verb, self.server.container], None, 60)
        assert done.exit_code == 0, done.stderr

    def exit_code(self) -> int:
        """How the container has ended, which it must within a while."""
        return int(result_of(["docker", "wait", self.server.container], None, 30).stdout)

    def log(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """The log's lines of one kind, once there are `count`: docker has them a moment later."""
        ends = time.monotonic() + 10
        while True:
            lines = [json.loads(line) for line in self.server.logs().splitlines() if line.startswith("{")]
            found = [line for line in lines if line["event"] == event]
            if len(found) >= count:
                return found
            assert time.monotonic() < ends, lines
            time.sleep(0.05)

    def remove(self) -> None:
        result_of(["docker", "rm", "--force", "--volumes", self.server.container], None, 60)
        self.double.close()
        assert not self.double.violations


def request(code: str, **fields: Any) -> dict[str, Any]:
    return {"language": "python3", "code": code, **fields}


Start = Callable[..., Function]


def starter(image: str) -> Iterator[Start]:
    started: list[Function] = []

    def start(*options: str, **environment: str) -> Function:
        started.append(Function(image, options, environment))
        return started[-1]

    yield start
    for function in started:
        function.remove()
