"""How the run hands over its filter's listener: to init, or to the server, who start a supervisor for it."""

import faulthandler
import posix

from runtime import kernel

QUESTION_SIGNAL = 23  # SIGURG, asm-generic/signal.h: ignored by every program that does not ask for it
RLIMIT_NOFILE = 7
SOL_SOCKET = SCM_RIGHTS = 1
CMSG_HEADER_BYTES = 16  # struct cmsghdr


class Channel:
    """The run's end of the socket that init, or the server, made for it."""

    def __init__(self, socket: int, mode: str, status: int | None, message: bytes = b"") -> None:
        """`mode` is what the supervisor does with denied calls; it writes to `status`, where there is one.

        `message` is what goes with the listener, if not the mode.
        """
        self.socket = socket
        self.mode = mode
        self.status = status
        self.message = message or mode.encode()
        self.stacks: tuple[int, int] = (-1, -1)

    def move_to(self, number: int) -> bool:
        """Makes the socket descriptor `number`, and a pipe for the supervisor's questions; False: cannot be.

        `number` will be the limit of open descriptors: the filter lets sendmsg(2) through on it, and once it
        is closed no program in the jail can have a descriptor with this number again. The pipe takes the
        highest that it can, out of the way of programs that count.
        """
        hard = kernel.raise_limit(RLIMIT_NOFILE)
        try:
            if number >= hard:
                raise OSError
            self.socket = _move(self.socket, number)
            read, write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
            self.stacks = read, _move(write, number - 1)
        except OSError:
            posix.close(self.socket)
            return False
        return True

    def close(self) -> None:
        """For a run whose filter has no listener: nothing of this is left to the code."""
        for descriptor in (self.socket, *self.stacks):
            posix.close(descriptor)

    def hand_over(self, listener: int) -> None:
        """Sends the listener. The filter is in force already: what fails here, aborts."""
        read, write = self.stacks
        descriptors = [listener, read, *([] if self.status is None else [self.status])]
        try:
            send(self.socket, self.message, descriptors)
            for descriptor in (listener, read, self.socket):
                posix.close(descriptor)
            # The handler writes the Python stack of the thread that gets the signal, whatever state it is in.
            faulthandler.register(QUESTION_SIGNAL, write, all_threads=False)
            kernel.keep_errno(QUESTION_SIGNAL)
        except OSError:
            posix.write(2, b"sandbox: error: the filter's listener could not be handed over\n")
            posix.abort()  # no exit code of ours is left


def _words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def _move(descriptor: int, number: int) -> int:
    posix.dup2(descriptor, number, False)
    posix.close(descriptor)
    return number


def send(socket: int, data: bytes, descriptors: list[int]) -> None:
    """sendmsg(2) with SCM_RIGHTS (unix(7)); `socket` would be a module to import."""
    rights = b"".join(descriptor.to_bytes(4, "little") for descriptor in descriptors)
    control = bytearray(
        _words(CMSG_HEADER_BYTES + len(rights), SOL_SOCKET | SCM_RIGHTS << 32)
        + rights
        + bytes(-len(rights) % 8)
    )
    payload = bytearray(data)
    part = bytearray(_words(kernel.address(payload), len(payload)))
    message = bytearray(_words(0, 0, kernel.address(part), 1, kernel.address(control), len(control), 0))
    kernel.call(kernel.SYS_sendmsg, socket, message, 0)
