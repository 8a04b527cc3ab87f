"""Sockets for code that has no network: each is connected to the sandbox's own proxy before the code gets it.

A filter cannot see where a connect(2) leads, and Landlock sees only the port. So code in the jail makes no
socket and connects none: both calls are denied, and the supervisor, whom the kernel asks about denied
calls, answers socket(2) with a descriptor of a connection to the proxy, and connect(2) with success. Whatever
address the code names, it is the proxy that it talks to.

bind(2) succeeds too, and binds nothing: a client names its side by it, and urllib3 asks in each import by it
whether there is IPv6. What a server needs next, listen(2), is denied and named.
"""

import _socket
import posix

from runtime import kernel

AF_INET, AF_INET6 = 2, 10
SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC = 1, 0o4000, 0o2000000
IPPROTO_TCP = 6
ENETUNREACH = 101
CONNECT_MS = 1000
MAX_LENT = 4096
"""In one run, one after another; the proxy bounds how many there are at once."""

SEND, ADDFD = 0xC0182101, 0x40182103  # linux/seccomp.h: SECCOMP_IOCTL_NOTIF_*
FLAG_SEND = 2  # the descriptor is the call's result: Linux 5.14
TOO_OLD = b"sandbox: error: this kernel lends no sockets, so network.allow opens nothing: Linux 5.14 does\n"
IPV4_LOOPBACK = "127.0.0.1"


def is_tcp(arguments: list[int]) -> bool:
    """Whether the arguments of a socket(2) ask for TCP."""
    family, type_, protocol = (argument & 0xFFFF_FFFF for argument in arguments[:3])
    kind = type_ & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)
    return family in (AF_INET, AF_INET6) and kind == SOCK_STREAM and protocol in (0, IPPROTO_TCP)


class Lender:
    """Answers the calls of one run."""

    def __init__(self, listener: int, port: int) -> None:
        """`port` is the proxy's, on loopback."""
        self.listener = listener
        self.port = port
        self.lent = 0
        self.told = False

    def answers(self, identity: int, name: str, arguments: list[int]) -> bool:
        """Whether the call is one that is answered here; then it has been."""
        if name in ("connect", "bind"):
            self._respond(identity, 0)
        elif name != "socket" or not is_tcp(arguments):
            return False
        elif self.lent >= MAX_LENT or not self._lend(identity, arguments[1]):
            self._respond(identity, ENETUNREACH)
        return True

    def _lend(self, identity: int, type_: int) -> bool:
        """Gives the waiting thread a socket as what its socket(2) has made; False where that cannot be."""
        try:
            socket = self._connected()
        except OSError:
            return False
        try:
            socket.setblocking(not type_ & SOCK_NONBLOCK)
            words = (
                identity.to_bytes(8, "little"),
                FLAG_SEND.to_bytes(4, "little"),
                socket.fileno().to_bytes(4, "little"),
                bytes(4),  # which number it gets is the kernel's choice
                (type_ & SOCK_CLOEXEC).to_bytes(4, "little"),
            )
            kernel.call(kernel.SYS_ioctl, self.listener, ADDFD, bytearray(b"".join(words)))
        except OSError as error:
            if error.errno == kernel.EINVAL:
                self._tell_too_old()
            return False  # it has ended, or has as many descriptors as it may
        finally:
            socket.close()
        self.lent += 1
        return True

    def _tell_too_old(self) -> None:
        if self.told or not kernel.poll([(2, kernel.POLLOUT)], 0)[0]:
            return  # whoever does not read its stderr must not hold us up
        self.told = True
        try:  # noqa: SIM105 - contextlib would be an import
            posix.write(2, TOO_OLD)
        except OSError:
            pass  # nobody listens

    def _respond(self, identity: int, error: int) -> None:
        words = (identity.to_bytes(8, "little"), bytes(8), (-error & 0xFFFF_FFFF).to_bytes(8, "little"))
        try:  # noqa: SIM105 - contextlib would be an import
            kernel.call(kernel.SYS_ioctl, self.listener, SEND, bytearray(b"".join(words)))
        except OSError:
            pass  # the thread has ended, or a signal has interrupted its call, which then comes again

    def _connected(self) -> _socket.socket:
        socket = _socket.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
        try:
            try:
                socket.connect((IPV4_LOOPBACK, self.port))
            except BlockingIOError:
                if not kernel.poll([(socket.fileno(), kernel.POLLOUT)], CONNECT_MS)[0]:
                    raise OSError from None
            # Who it is for: the proxy counts by it. The code cannot have written before us.
            socket.send(b"%d\n" % posix.getpid())
        except OSError:
            socket.close()
            raise
        return socket
