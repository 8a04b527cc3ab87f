"""`lambda`: what is an error, and the end: with a reason for Lambda, which then starts another."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import result_of
from tests.serve.lambdadouble import Answer
from tests.serve.lambdafunction import AS_LAMBDA, Start, request, starter

REFUSED_OPTIONS = {
    "a setting that is none": ((), {"WORKER_TIMEOUT": "soon"}, "WORKER_TIMEOUT: 'soon' is not"),
    "root without capabilities": (("--cap-drop=ALL",), {}, "running as root without the capabilities"),
}
ZYGOTE = """
import os
for name in os.listdir("/proc"):
    if name.isdigit():
        with open(f"/proc/{name}/cmdline", "rb") as file:
            if b"/sandbox/zygote.pyc" in file.read().split(b"\\0"):
                os.kill(int(name), 9)
                print("killed")
                break
"""


@pytest.fixture
def start(loaded_image: str) -> Iterator[Start]:
    """Starts environments of the shipped config's image; at the end none of them has broken a rule."""
    yield from starter(loaded_image)


def test_a_killed_zygote_costs_one_run(start: Start) -> None:
    """The run at hand ends in an error with a reason; the next is answered."""
    function = start()
    function.wait_until_ready()
    sent = function.double.send(request("import time\ntime.sleep(60)"))
    time.sleep(0.5)
    assert function.server.python(ZYGOTE).strip() == "killed"
    answer: Answer = sent.answers.get(timeout=20)
    assert (answer.kind, answer.error_type) == ("error", "Runtime.RunLost")
    assert "zygote" in answer.body["errorMessage"]
    assert function.run("print('fine')")["stdout"] == "fine\n"


def test_a_pool_that_is_down_for_good_ends_the_process(start: Start) -> None:
    """After the invocation was told why, as it is too late for init/error: then Lambda starts another."""
    function = start()
    function.wait_until_ready()
    function.server.python("import os; os.remove('/sandbox/zygote.pyc')\n" + ZYGOTE)
    answer = function.double.invoke(request("print(1)"))
    assert (answer.kind, answer.error_type) == ("error", "Runtime.PoolDown")
    assert "zygote" in answer.body["errorMessage"]
    assert function.exit_code() == 223


@pytest.mark.parametrize("name", REFUSED_OPTIONS)
def test_a_start_that_fails_is_reported(start: Start, name: str) -> None:
    """As init/error with the reason, and as an exit code; no event is asked for."""
    options, environment, reason = REFUSED_OPTIONS[name]
    function = start(*options, **environment)
    told = function.double.init_error()
    assert told.error_type == "Runtime.InitFailed"
    assert reason in told.body["errorMessage"]
    assert 208 <= function.exit_code() <= 223
    assert not function.double.ready.is_set()
    assert "sandbox: error: " in function.server.logs()


def test_code_cannot_speak_to_the_runtime_api(start: Start, root: Path, tmp_path: Path) -> None:
    """An image with all of the network is refused; in one without there is no socket to do it with."""
    facts = json.loads((root / "sandbox/runtime.json").read_bytes())
    assert not facts["network"]
    (tmp_path / "runtime.json").write_text(json.dumps(facts | {"network": True}))
    tmp_path.chmod(0o755)
    refused = start(f"--volume={tmp_path}/runtime.json:/sandbox/runtime.json:ro")
    assert "runtime API" in refused.double.init_error().body["errorMessage"]
    function = start()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        connect = f"import socket\nsocket.create_connection({address!r}).close()\nprint('connected')"
        assert function.server.python(connect) == "connected\n"
        assert "Operation not permitted" in function.run(connect)["stderr"]


def test_network_allow_does_not_lead_to_it(built: Callable[[str], str]) -> None:
    """Whatever code connects to is the proxy of network.allow, as Lambda's user too."""
    image = built("enable_network: true\nnetwork: {allow: ['example.com:443']}\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        ask = (
            f"import socket\nasking = socket.create_connection({server.getsockname()!r})\n"
            "asking.send(b'GET / HTTP/1.0\\r\\n\\r\\n')\nprint(asking.recv(99))"
        )
        for start in starter(image):
            function = start(*AS_LAMBDA)
            assert "this is the proxy of the sandbox" in function.run(ask)["stdout"]
            with pytest.raises(TimeoutError):
                server.accept()


def test_elsewhere_it_says_what_is_missing(loaded_image: str) -> None:
    """Without the API's address it is not Lambda."""
    done = result_of(["docker", "run", "--rm", "--network=none", loaded_image, "lambda"], None, 60)
    assert done.exit_code == 208
    assert "AWS_LAMBDA_RUNTIME_API" in done.stderr
    assert "serve" in done.stderr


def test_sigterm_ends_what_waits_and_lets_a_run_end(start: Start) -> None:
    """With 0, and no answer lost."""
    idle = start()
    idle.wait_until_ready()
    idle.docker("stop")
    assert idle.exit_code() == 0
    busy = start()
    sent = busy.double.send(
        request("import time\nprint('begun', flush=True)\ntime.sleep(1.5)\nprint('done')")
    )
    busy.wait_until_ready()
    time.sleep(0.5)
    busy.docker("stop")
    assert sent.answers.get(timeout=20).body["data"]["stdout"] == "begun\ndone\n"
    assert busy.exit_code() == 0


def test_an_api_that_is_gone_ends_the_process(start: Start) -> None:
    """There is nothing to wait for."""
    function = start()
    function.wait_until_ready()
    function.double.close()
    assert function.exit_code() == 223
    assert "the runtime API at" in function.server.logs()
