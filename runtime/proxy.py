"""The proxy of the runs: CONNECT, http:// URLs and SOCKS5, to what network.allow names.

It resolves names itself and connects to the very address that it has checked.
"""

import _socket
import binascii

from runtime.destinations import Destinations, parse_host, parse_port, show
from runtime.lookup import Busy, Lookup
from runtime.loop import Cancelled, Loop
from runtime.proxy_protocol import NOT_ASKED, SOCKS, TLS, Refusal, Wanted, parse, socks_answer
from runtime.stream import MAX_HEAD_BYTES, Flow, Reader, Socket, close, connect, say, say_last

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CONNECTIONS = 256
MAX_OF_RUN = 64
CONNECT_S = 10.0
MAX_PREFACE_BYTES = 12

TLS_DENIED = bytes.fromhex("15030100020231")
"""A fatal alert, access_denied: what a client that has not asked the proxy first can make sense of."""


class Upstream:
    """The proxy through which alone the container reaches the network."""

    def __init__(self, url: str) -> None:
        """http://[USER:PASSWORD@]HOST:PORT. ValueError where it is no such thing."""
        scheme, found, rest = url.partition("://")
        userinfo, _, place = rest.rstrip("/").rpartition("@")
        host, _, port = place.rpartition(":")
        self.name, self.address = parse_host(host)
        self.port = parse_port(port)
        if not found or scheme.lower() != "http" or not self.port or not (self.name or self.address):
            raise ValueError("with network.allow, the proxy of the config must be http://HOST:PORT")
        self.credentials = binascii.b2a_base64(_unquoted(userinfo), newline=False) if userinfo else b""

    def request(self, wanted: Wanted) -> bytes:
        """What asks it for a connection."""
        place = f"{wanted.host}:{wanted.port}".encode()
        head = b"CONNECT " + place + b" HTTP/1.1\r\nHost: " + place + b"\r\n"
        if self.credentials:
            head += b"Proxy-Authorization: Basic " + self.credentials + b"\r\n"
        return head + b"\r\n"


class Denial:
    """A connection that nobody was let make, or that failed."""

    def __init__(self, run: int, wanted: Wanted, why: str) -> None:
        self.run = run
        self.host = wanted.host
        self.port = wanted.port
        self.why = why


class Proxy:
    """Serves everybody who connects."""

    def __init__(
        self,
        loop: Loop,
        destinations: Destinations,
        upstream: Upstream | None,
        report: "Callable[[Denial], None]",
    ) -> None:
        """`report` is told of every connection that network.allow refuses."""
        self.loop = loop
        self.destinations = destinations
        self.upstream = upstream
        self.report = report
        self.lookup = Lookup(loop, CONNECT_S)
        self._open = 0
        self._of_run: dict[int, int] = {}

    async def serve(self, listening: Socket) -> None:
        """Accepts for ever."""
        while True:
            await self.loop.readable(listening.fileno())
            try:
                descriptor, _ = listening._accept()  # type: ignore[attr-defined]
            except OSError:
                continue  # it is gone again; MAX_CONNECTIONS is below the limit of descriptors
            client = Socket(fileno=descriptor)
            client.setblocking(False)
            if self._open >= MAX_CONNECTIONS:
                client.close()
                continue
            self._open += 1
            self.loop.spawn(self._client(client))

    async def _client(self, client: Socket) -> None:
        run = 0
        try:
            reader = Reader(self.loop, client)
            run = await self._read_run(reader)
            count = self._of_run[run] = self._of_run.get(run, 0) + 1
            if count > MAX_OF_RUN:
                await say_last(
                    self.loop, client, Refusal(503, f"a run has more than {MAX_OF_RUN} connections").answer
                )
            else:
                await self._converse(client, reader, run)
        except (OSError, Cancelled, Refusal):
            pass  # one side has gone, or was never one of ours
        finally:
            close(self.loop, client)
            self._open -= 1
            if run:
                self._of_run[run] -= 1
                if not self._of_run[run]:
                    del self._of_run[run]

    async def _read_run(self, reader: Reader) -> int:
        """Which run it is: the line that the supervisor writes before it lends the socket (lending.py)."""
        line = await reader.through(b"\n", MAX_PREFACE_BYTES)
        if not line[:-1].isdigit() or not int(line):
            raise OSError("no supervisor has made this connection")
        return int(line)

    async def _converse(self, client: Socket, reader: Reader, run: int) -> None:
        first = await reader.peek()
        try:
            if first == SOCKS:
                wanted = await self._socks(client, reader)
            elif first == TLS:
                raise Refusal(400, NOT_ASKED, TLS_DENIED)
            elif not 65 <= first <= 90:  # no capital letter: no method, and perhaps no empty line to wait for
                raise Refusal(400, NOT_ASKED)
            else:
                wanted = parse(await reader.through(b"\r\n\r\n", MAX_HEAD_BYTES))
        except Refusal as refusal:
            await say_last(self.loop, client, refusal.answer)
            return
        try:
            server = await self._open_to(wanted)
        except Refusal as refusal:
            if refusal.status == 403:
                self.report(Denial(run, wanted, str(refusal)))
            await say_last(self.loop, client, wanted.refused(refusal))
            return
        try:
            await say(self.loop, client, wanted.opened)
            await say(self.loop, server, wanted.forward + reader.rest)
            await Flow(self.loop).carry(client, server)
        finally:
            close(self.loop, server)

    async def _socks(self, client: Socket, reader: "Reader") -> Wanted:
        """RFC 1928: no authentication, CONNECT."""
        methods = await reader.exactly((await reader.exactly(2))[1])
        if 0 not in methods:
            raise Refusal(400, "", b"\5\xff")
        await say(self.loop, client, b"\5\0")
        version, command, _, kind = await reader.exactly(4)
        if version != 5 or command != 1:
            raise Refusal(400, "", socks_answer(7))
        if kind == 3:
            text = (await reader.exactly((await reader.exactly(1))[0])).decode("latin-1")
        elif kind in (1, 4):
            family, size = (_socket.AF_INET, 4) if kind == 1 else (_socket.AF_INET6, 16)
            text = _socket.inet_ntop(family, await reader.exactly(size))
        else:
            raise Refusal(400, "", socks_answer(8))
        port = int.from_bytes(await reader.exactly(2), "big")
        name, address = parse_host(text)
        if not port or not (name or address):
            raise Refusal(400, "", socks_answer(2))
        return Wanted(name, address, port, socks=True)

    async def _open_to(self, wanted: Wanted) -> Socket:
        """A socket that is connected to where `wanted` may go; Refusal where nowhere."""
        if self.upstream is not None:
            return await self._open_by(self.upstream, wanted)
        ends = self.loop.now() + CONNECT_S
        for address in await self._checked(wanted):
            server = await connect(self.loop, address, wanted.port, ends)
            if server is not None:
                return server
        raise Refusal(502, f"{wanted.host}:{wanted.port} could not be connected to")

    async def _checked(self, wanted: Wanted) -> list[bytes]:
        """The addresses of `wanted` that network.allow and their kind let through."""
        name, port = wanted.name, wanted.port
        if name:
            # Before anybody is asked for it: a name can carry data to whoever answers for its domain.
            if why := self.destinations.name_refusal(name, port):
                raise Refusal(403, why)
            try:
                addresses = await self.lookup.addresses(name)
            except Busy:
                raise Refusal(503, "too many names are being looked up") from None
            if not addresses:
                raise Refusal(502, f"{name} has no address, or no name server said so in time")
        else:
            addresses = [wanted.address]
        refusals = [
            self.destinations.address_refusal(address, port, is_own(address), name) for address in addresses
        ]
        passed = [address for address, why in zip(addresses, refusals, strict=True) if not why]
        if not passed:
            raise Refusal(403, refusals[0])
        return passed

    async def _open_by(self, upstream: Upstream, wanted: Wanted) -> Socket:
        """The same through another proxy. That resolves the name: where it leads, nobody here can check."""
        if wanted.name:
            why = self.destinations.name_refusal(wanted.name, wanted.port)
        else:
            address = wanted.address
            why = self.destinations.address_refusal(address, wanted.port, is_own(address))
        if why:
            raise Refusal(403, why)
        try:
            found = await self.lookup.addresses(upstream.name) if upstream.name else [upstream.address]
        except Busy:
            raise Refusal(503, "too many names are being looked up") from None
        ends = self.loop.now() + CONNECT_S
        for address in found:
            server = await connect(self.loop, address, upstream.port, ends)
            if server is None:
                continue
            try:
                await say(self.loop, server, upstream.request(wanted))
                answer = await Reader(self.loop, server).through(
                    b"\r\n\r\n", MAX_HEAD_BYTES, and_no_more=True
                )
            except (OSError, Refusal):
                answer = b""
            except Cancelled:
                close(self.loop, server)
                raise
            version, _, status = answer.partition(b" ")
            if version in (b"HTTP/1.1", b"HTTP/1.0") and status[:1] == b"2":
                return server
            close(self.loop, server)
            said = status[:3].decode("latin-1") if status[:3].isdigit() else "nothing"
            raise Refusal(502, f"the proxy of the config answered {said} to {wanted.host}:{wanted.port}")
        raise Refusal(502, "the proxy of the config could not be connected to")


def is_own(address: bytes) -> bool:
    """Whether this network namespace has the address: only then can a socket be bound to it."""
    family = _socket.AF_INET if len(address) == 4 else _socket.AF_INET6
    try:
        probe = Socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    except OSError:
        return False
    try:
        probe.bind((show(address).strip("[]"), 0))
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _unquoted(text: str) -> bytes:
    """RFC 3986's percent-encoding undone."""
    first, *parts = text.encode().split(b"%")
    try:
        return first + b"".join(binascii.unhexlify(part[:2]) + part[2:] for part in parts)
    except ValueError:
        raise ValueError(
            "the proxy of the config has a % in its user or password that stands for nothing"
        ) from None
