"""A registry with a bad day: what passes is tried again; what does not leaves the tag where it was."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

import pytest

from builder import transfer
from builder.archive import BuiltImage, Descriptor, open_archive, write_archive
from builder.errors import BuildError, RegistryError
from builder.registry import client, open_registry
from builder.registry import images as images_module
from builder.registry.client import Stopped
from builder.registry.transfer import Blob, send_blobs
from builder.retry import retry_after_s
from tests.integration.conftest import make_archive
from tests.integration.front import Fault, Front, serving
from tests.integration.pushing import push_all, push_one, refusal, remote_digest, remote_tags

pytestmark = pytest.mark.usefixtures("docker_config")


def tried(front: Front, path: str) -> Counter[str]:
    """How often each blob or manifest was sent."""
    return Counter(re.sub(r"/uploads/.*digest=", "/", one) for one in front.paths("PUT", path))


@pytest.mark.usefixtures("hasty")
def test_unreachable(archive: Path) -> None:
    """A port where nobody listens is an error that says so."""
    with serving("127.0.0.1:1") as gone:
        host = gone.host
    error = refusal(archive, f"{host}/team/sandbox:v1")
    assert error.message == f"{host}: not reached: Connection refused"
    assert error.hint


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "/v2/", 503),
        Fault("HEAD", "/blobs/", 502),
        Fault("POST", "/uploads/", 500, times=2),
        Fault("PUT", "/uploads/", 504),
        Fault("PUT", "/uploads/", None, times=3),
        Fault("PUT", "/uploads/", 404),
        Fault("PUT", "/uploads/", 416),
        Fault("POST", "/uploads/", None),
        Fault("PUT", "/manifests/", 429, times=3),
        Fault("PUT", "/manifests/", None),
    ],
    ids=lambda fault: f"{fault.method} {fault.path} {fault.status or 'cut'}",
)
def test_passing_failures(front: Front, archive: Path, fault: Fault) -> None:
    """A failure that passes within four attempts is not the user's business, and the image arrives whole."""
    front.faults.append(fault)
    digest = push_one(archive, f"{front.host}/team/sandbox:v1")
    assert fault.times == 0
    assert remote_digest(front.upstream) == digest


def test_registry_names_its_pause(front: Front, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that says how long to wait is waited for."""
    monkeypatch.setattr(client, "_PAUSES_S", (0.0, 0.0, 0.0))
    front.faults.append(Fault("PUT", "/manifests/", 429, headers={"Retry-After": "1"}))
    started = time.monotonic()
    push_one(archive, f"{front.host}/team/sandbox:v1")
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "3600"}, 60),
        ({"Retry-After": "Sun, 01 Feb 2026 01:01:00 GMT", "Date": "Sun, 01 Feb 2026 00:01:00 GMT"}, 60),
        ({"Retry-After": "Sun, 01 Feb 2026 00:01:30 GMT", "Date": "Sun, 01 Feb 2026 00:01:00 GMT"}, 30),
        ({"Retry-After": "Sun, 01 Feb 2026 00:01:00 GMT", "Date": "Sun, 01 Feb 2026 00:01:30 GMT"}, 0),
        ({"Retry-After": "Sun, 01 Feb 2026 00:01:30 GMT"}, 0),
        ({"Retry-After": "Sun, 01 Feb 2026 00:01:30 GMT", "Date": "Sun, 01 Feb 2026 00:01:00"}, 0),
        *(({"Retry-After": text}, 0) for text in ("-1", "soon", "1.5", "\u00b2")),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float) -> None:
    """Seconds or a date, which counts from the answer's own, a minute at most; else it asks for nothing."""
    assert retry_after_s(headers) == seconds


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("path", ["/uploads/", "/manifests/"])
def test_lasting_failures(front: Front, archive: Path, path: str) -> None:
    """One that lasts ends the push after four attempts, names the status, and leaves the tag where it was."""
    before = push_one(archive, f"{front.upstream}/team/sandbox:v1")
    other = make_archive(archive.parent, "other", [b"another image"])
    front.faults.append(Fault("PUT", path, 503, times=100))
    error = refusal(other, f"{front.host}/team/sandbox:v1")
    assert "503" in error.message
    assert max(tried(front, path).values()) == 4
    assert remote_digest(front.upstream) == before


def test_no_right(front: Front, archive: Path) -> None:
    """403 says what may not be pushed to, in the registry's words, less what a terminal would obey."""
    body = json.dumps({"errors": [{"code": "DENIED", "message": "not \x1b[31myours"}]}).encode()
    front.faults.append(Fault("POST", "/uploads/", 403, body=body))
    error = refusal(archive, f"{front.host}/team/sandbox:v1")
    assert error.message == f"{front.host}: no right to push to team/sandbox (DENIED: not \\x1b[31myours)"
    assert error.hint


@pytest.mark.parametrize("path", ["/uploads/", "/manifests/"])
def test_lying_digest(front: Front, archive: Path, path: str) -> None:
    """A registry that claims to have stored something else is not believed."""
    front.faults.append(Fault("PUT", path, 201, headers={"Docker-Content-Digest": "sha256:" + "0" * 64}))
    assert "says that it has sha256:000" in refusal(archive, f"{front.host}/team/sandbox:v1").message


def test_refused_blob(front: Front, archive: Path) -> None:
    """A refusal that will not pass is not tried again."""
    body = json.dumps({"errors": [{"code": "DIGEST_INVALID", "message": "digest did not match"}]}).encode()
    front.faults.append(Fault("PUT", "/uploads/", 400, body=body))
    error = refusal(archive, f"{front.host}/team/sandbox:v1")
    assert "400 Bad Request (DIGEST_INVALID: digest did not match)" in error.message
    assert set(tried(front, "/uploads/").values()) == {1}


def test_a_tag_on_a_condition_of_the_registry(front: Front, archive: Path) -> None:
    """412 where we set no condition is a refusal."""
    front.faults.append(Fault("PUT", "/manifests/v1", 412))
    assert "412 Precondition Failed" in refusal(archive, f"{front.host}/team/sandbox:v1").message


def test_a_proxy_with_a_limit(front: Front, archive: Path) -> None:
    """A body that is too large for somebody on the way is an error that says what to look for."""
    front.faults.append(Fault("PUT", "/uploads/", 413, times=9, after=2))
    error = refusal(archive, f"{front.host}/team/sandbox:v1")
    assert "413" in error.message
    sizes = [headers["Content-Length"] for method, path, headers in front.seen if method == "PUT"]
    assert error.hint == f"a proxy before the registry must let bodies of {sizes[2]} bytes through"


@pytest.mark.usefixtures("hasty")
def test_a_registry_that_dies(registry: str, archive: Path, tmp_path: Path) -> None:
    """One that is gone in the middle of a push, for good, is an error that says so."""
    other = make_archive(tmp_path, "other", [b"another image"] * 9)
    before = push_one(archive, f"{registry}/team/sandbox:v1")
    with serving(registry) as front:
        front.faults += [Fault(method, "", None, times=1000, after=4) for method in ("POST", "PUT")]
        error = refusal(other, f"{front.host}/team/sandbox:v1")
    assert ": not reached: " in error.message
    assert remote_digest(registry) == before


def test_a_blob_is_there_as_another(front: Front, archive: Path) -> None:
    """A registry that says to have a blob, and names another, is not believed."""
    headers = {"Docker-Content-Digest": "sha256:" + "0" * 64}
    front.faults.append(Fault("HEAD", "/blobs/", 200, headers=headers))
    assert "says that it has sha256:000" in refusal(archive, f"{front.host}/team/sandbox:v1").message


def test_one_who_says_nothing_of_digests(front: Front, archive: Path) -> None:
    """Older registries name none, and may say 202: what was sent has its digest anyway."""
    front.hidden = {"docker-content-digest"}
    digest = push_one(archive, f"{front.host}/team/sandbox:v1")
    assert remote_digest(front.upstream) == digest


def test_relative_locations(front: Front, archive: Path) -> None:
    """Where to upload to may be said without the host."""
    front.locations = "relative"
    digest = push_one(archive, f"{front.host}/team/sandbox:v1")
    assert remote_digest(front.upstream) == digest


def test_no_location(front: Front, archive: Path) -> None:
    """A registry that does not say where to upload to has failed."""
    front.hidden = {"location"}
    assert "says nowhere to send a blob to" in refusal(archive, f"{front.host}/team/sandbox:v1").message


def test_redirects_without_end(front: Front, archive: Path) -> None:
    """Nobody is sent round for ever."""
    front.redirects_to = front
    assert "from one place to the next" in refusal(archive, f"{front.host}/team/sandbox:v1").message


def test_a_write_does_not_become_a_read(front: Front, archive: Path) -> None:
    """302 would have a browser ask for the page instead: here it is a refusal."""
    front.faults.append(Fault("PUT", "/manifests/", 302, headers={"Location": "/v2/"}))
    assert "302 Found" in refusal(archive, f"{front.host}/team/sandbox:v1").message


def test_too_long_a_refusal(front: Front, archive: Path) -> None:
    """What a registry says is not read without end."""
    front.faults.append(Fault("POST", "/uploads/", 400, body=b"x" * (client.MANIFEST_BYTES + 1)))
    assert "sends more than" in refusal(archive, f"{front.host}/team/sandbox:v1").message


# The archive


def test_a_damaged_archive(front: Front, archive: Path) -> None:
    """A layer that is not what its digest says is not sent."""
    content = bytearray(archive.read_bytes())
    with open_archive(archive) as opened:
        layer = opened.blob(opened.layers[1]).read()
    content[content.index(layer) + len(layer) - 1] ^= 1
    archive.write_bytes(content)
    with pytest.raises(BuildError, match="is damaged") as refused:
        push_one(archive, f"{front.host}/team/sandbox:v1")
    assert refused.value.hint == "build the image again"
    assert remote_tags(front.upstream) == set()


def test_half_an_archive(front: Front, archive: Path) -> None:
    """One that was cut is an error, not a traceback, wherever it ends."""
    whole = archive.read_bytes()
    with open_archive(archive) as opened:
        last = whole.rindex(opened.manifest)
    for length in (0, 100, 5000, last // 2, last, last + 10):
        archive.write_bytes(whole[:length])
        with pytest.raises(BuildError):
            push_one(archive, f"{front.host}/team/sandbox:v1")
    assert remote_tags(front.upstream) == set()


def test_no_image(registry: str, tmp_path: Path) -> None:
    """A config that names no architecture is an error that names the archive."""
    path = tmp_path / "none.tar"
    write_archive(BuiltImage(b'{"rootfs": {"diff_ids": []}}', ()), path, "a:b")
    with pytest.raises(BuildError, match=r"none\.tar: cannot be read: 'architecture'"):
        push_one(path, f"{registry}/team/sandbox:v1")


def test_a_disk_that_fails(front: Front, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that gives an error half-way through a layer is named, and not taken for the network."""

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(min(size or 0, 10))

    @contextmanager
    def opened(_path: Path, blob: Descriptor) -> Iterator[IO[bytes]]:
        yield Failing(b"x" * blob.size)

    monkeypatch.setattr(images_module, "_from_archive", opened)
    with pytest.raises(BuildError) as refused:
        push_one(archive, f"{front.host}/team/sandbox:v1")
    assert refused.value.message == f"{archive}: cannot be read: Input/output error"
    assert front.requests("PUT", "/uploads/") <= 3  # none of them twice
    assert front.requests("PUT", "/manifests/") == 0


def test_what_others_wait_for_is_given_up(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one blob is refused, nobody waits for the pause of another; nothing else is begun."""
    other = make_archive(tmp_path, "other", [bytes([number]) * 999 for number in range(9)])
    monkeypatch.setattr(client, "_PAUSES_S", (3600.0, 3600.0, 3600.0))
    front.faults += [Fault("POST", "/uploads/", 503, times=3), Fault("POST", "/uploads/", 400, times=99)]
    assert "400" in refusal(other, f"{front.host}/team/sandbox:v1").message
    assert front.requests("PUT") == 0


@pytest.fixture
def dripping() -> Iterator[str]:
    """HOST:PORT of a registry whose answers never come to an end."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.02)

        def take() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=drip, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=take, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_registry_that_drips_is_left(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes before the time-out of a single read is over."""
    monkeypatch.setattr(transfer, "_STALL_S", 0.5)
    asked = client.Client(dripping, "team/sandbox", "pull", None)
    with pytest.raises(RegistryError, match=r"GET: in 0\.5 s there came \d+ bytes"):
        asked.call("GET", f"http://{dripping}/v2/", {200})


class _Compressing(BaseHTTPRequestHandler):
    """Compresses although it was asked not to."""

    def do_GET(self) -> None:
        content = gzip.compress(b'{"tags": ["1"]}')
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_a_proxy_that_compresses_is_understood() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Compressing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        asked = client.Client(host, "team/sandbox", "pull", None)
        assert asked.call("GET", f"http://{host}/v2/", {200}).content == b'{"tags": ["1"]}'
        server.shutdown()


def test_an_answer_that_is_long_in_coming_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its headers at once, and all of it some time later: what has come whole did not drip."""
    monkeypatch.setattr(transfer, "_STALL_S", 0.1)

    class Slow(_Compressing):
        def end_headers(self) -> None:
            super().end_headers()
            time.sleep(0.3)

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        asked = client.Client(host, "team/sandbox", "pull", None)
        assert asked.call("GET", f"http://{host}/v2/", {200}).status == 200
        server.shutdown()


def test_an_answer_that_drips_is_given_up_when_another_failed(dripping: str) -> None:
    """In the middle of it."""
    asked = client.Client(dripping, "team/sandbox", "pull", None)
    threading.Timer(0.2, asked.stopped.set).start()
    with pytest.raises(Stopped):
        asked.call("GET", f"http://{dripping}/v2/", {200})


def test_an_upload_that_is_under_way_is_given_up(front: Front) -> None:
    """Not one more byte is read for it."""
    _, repository = open_registry(f"{front.host}/team/sandbox:v1")
    content = io.BytesIO(b"x" * 1000)
    blob = Blob(Descriptor.of("text/plain", content.getvalue()), "amd64", lambda: nullcontext(content), "x")
    repository.stopped.set()
    with pytest.raises(Stopped):
        send_blobs(repository, [blob], lambda _lane, _text: None)
    assert content.tell() == 0


def test_two_architectures_of_which_one_is_refused(front: Front, archive: Path, tmp_path: Path) -> None:
    """When the index itself is refused, no tag is there, and no index."""
    other = make_archive(tmp_path, "other", [b"for amd64"], architecture="amd64")
    front.faults.append(Fault("PUT", "/manifests/v1", 400))
    with pytest.raises(RegistryError, match="400"):
        push_all([archive, other], f"{front.host}/team/sandbox:v1")
    assert remote_tags(front.upstream) == set()
    assert front.requests("PUT", "/manifests/") == 3
