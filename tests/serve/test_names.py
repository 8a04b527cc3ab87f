"""Runs with the whole network: the container's name servers and hosts are the jail's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from builder.tree.spec import TREE_PATH
from tests.conftest import result_of
from tests.serve.conftest import Serving
from tests.serve.world import WEB, World, docker, open_world, wait_until_ready, world_in

OPEN = "enable_network: true\n"


@pytest.fixture(scope="module")
def world(built: Callable[[str], str]) -> Iterator[World]:
    with open_world(built(OPEN)) as made:
        yield made


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--user=1000:1000", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only"),
        ("--read-only", f"--tmpfs={TREE_PATH}/run:size=64k,mode=755"),
    ],
    ids=["root", "landlock", "read-only"],
)
@pytest.mark.parametrize("server_of_names", [WEB, "127.0.0.53"])
def test_the_containers_name_servers_and_hosts_are_the_jails(
    serving_of: Callable[[str], Serving],
    world: World,
    built: Callable[[str], str],
    options: tuple[str, ...],
    server_of_names: str,
) -> None:
    """Not those of whoever built: names resolve in the jail as they do outside of it, the control."""
    server = serving_of(OPEN)(f"--dns={server_of_names}", "--add-host=hosted.test:192.0.2.9", *options)
    beside = f"{server.container}-names"
    if server_of_names == WEB:
        world.join(server)
    else:  # one on the container's own loopback
        network = f"--network=container:{server.container}"
        docker("run", "--detach", f"--name={beside}", network, *world_in(built(OPEN), server_of_names))
        wait_until_ready(beside)
    try:
        code = "import socket; print(*(socket.gethostbyname(name) for name in ('web.test', 'hosted.test')))"
        assert server.python(code) == f"{WEB} 192.0.2.9\n"
        data = server.run(code)
        assert data["stdout"] == f"{WEB} 192.0.2.9\n", data
    finally:
        result_of(["docker", "rm", "--force", beside], None, 60)


def test_a_root_that_cannot_be_written_is_told_of(serving_of: Callable[[str], Serving]) -> None:
    """In the log, with the ways out; the server serves."""
    server = serving_of(OPEN)("--read-only")
    assert server.run("print(1)")["stdout"] == "1\n"
    logs = server.logs()
    assert "does not know the container's name servers" in logs
    assert f"{TREE_PATH}/run" in logs
