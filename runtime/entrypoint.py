"""What the image runs: reads the code, locks the process down, executes the code.

    entrypoint [-] [ARG...]            the code is on stdin
    entrypoint -c CODE [ARG...]        the code is the argument
    entrypoint --code-fd N [ARG...]    the code is on descriptor N, and stdin is the code's own
    entrypoint --status-fd N ...       what is in force, and each denied call, is written to N: JSON
    entrypoint --trace ...             denied calls are let through, but for dangerous ones, and only recorded
    entrypoint --uid N ...             the run gets this uid: for a caller that knows which ones are free
    entrypoint serve                   the HTTP service: serve.py
    entrypoint lambda                  the same runs for AWS Lambda: awslambda.py

Started by /sandbox/init, which adds `--init-fd N`, as `python3 -I -S -B /sandbox/entrypoint.pyc`: no
environment variable, no start-up file of any package (.pth, sitecustomize, usercustomize) and no folder of
the user's code has a say until the process is locked down. Imports are what a cold start costs: builtin
modules and runtime/ only.
"""

import posix
import sys

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import NoReturn

sys.path.insert(0, "/sandbox")

from runtime import failure, program  # noqa: E402
from runtime.channel import Channel  # noqa: E402
from runtime.facts import read_image  # noqa: E402
from runtime.failure import Refused  # noqa: E402
from runtime.image import MAX_BYTES, TooLarge, read_all, write_all  # noqa: E402
from runtime.jail import Jail  # noqa: E402


def main(arguments: list[str]) -> None:
    """Ends the process: with the code's own exit status, or with one of runtime/failure.py's codes."""
    status_descriptor = None
    try:
        init = None
        if arguments[:1] == ["--init-fd"]:
            init = descriptor(arguments[1:2], "--init-fd")
            del arguments[:2]
        if arguments[:1] == ["serve"] or arguments[:1] == ["lambda"]:
            if init is not None:
                posix.close(init)
            start_service(arguments)
        if arguments[:1] == ["--status-fd"]:
            status_descriptor = descriptor(arguments[1:2], "--status-fd")
            del arguments[:2]
        request = Request(arguments)
        settings, policies = read_image()
        if status_descriptor is not None and status_descriptor >= settings["limits"]["open_files"] - 1:
            raise Refused(failure.USAGE, "--status-fd wants a descriptor further below limits.open_files")
        if request.trace and status_descriptor is None:
            raise Refused(failure.USAGE, "--trace wants --status-fd before it: what else would it record to")
        if settings["network"] and posix.getuid() == 0:
            from runtime import nameservice

            if said := nameservice.bring(settings["tree"]):
                write_all(2, f"sandbox: note: {said}\n".encode())
        mode = "trace" if request.trace else settings["on_denied"]
        channel = None if init is None else Channel(init, mode, status_descriptor)
        code = request.read_code()
        kept = () if status_descriptor is None else (status_descriptor,)
        jail = Jail(settings, policies, request.uid, kept, channel)
        jail.enter()
    except Refused as refused:
        refuse(refused, status_descriptor)
    except BaseException as error:
        refuse(Refused(failure.INTERNAL, f"{type(error).__name__}: {error}"), status_descriptor)
    if status_descriptor is not None:
        try:
            write_all(status_descriptor, jail.describe())
        except OSError:
            posix.write(2, b"sandbox: error: the status could not be written\n")
            posix.abort()  # the filter is loaded: no exit code of ours is left
        posix.close(status_descriptor)
    program.execute(code, request.argv, settings["sys_path"])


def start_service(arguments: list[str]) -> None:
    """Serves until it is told to stop. These modules are no one-shot run's to import."""
    if arguments[0] == "serve":
        from runtime import serve as service
    else:
        from runtime import awslambda as service  # type: ignore[no-redef]
    service.main(arguments[1:])


class Request:
    """What the arguments behind --status-fd ask for."""

    def __init__(self, arguments: list[str]) -> None:
        rest = list(arguments)
        self.text: str | None = None
        self.code_descriptor = 0
        self.uid: int | None = None
        self.trace = rest[:1] == ["--trace"]
        if self.trace:
            del rest[0]
        if rest[:1] == ["--uid"]:
            self.uid = number(rest[1:2], "--uid")
            del rest[:2]
        if rest[:1] == ["-c"]:
            if len(rest) < 2:
                raise Refused(failure.USAGE, "-c wants the code as its argument")
            self.text = rest[1]
            self.argv = ["-c", *rest[2:]]
        elif rest[:1] == ["--code-fd"]:
            self.code_descriptor = descriptor(rest[1:2], "--code-fd")
            self.argv = ["-", *rest[2:]]
        elif not rest or rest[0] == "-":
            self.argv = ["-", *rest[1:]]
        else:
            raise Refused(
                failure.USAGE,
                f"unknown argument {rest[0]!r}",
                "it is -c CODE, --code-fd N, or - for code on stdin; arguments for the code follow",
            )

    def read_code(self) -> bytes:
        """The code, as the bytes that it came in."""
        if self.text is not None:
            return self.text.encode("utf-8", "surrogateescape")
        try:
            return read_all(self.code_descriptor)
        except TooLarge:
            raise Refused(failure.CODE, f"the code is larger than {MAX_BYTES} bytes") from None
        except OSError as error:
            raise Refused(failure.CODE, f"the code could not be read: {error.strerror}") from None


def number(values: list[str], option: str) -> int:
    """The one value, which must be a positive number."""
    text = values[0] if values else ""
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and 0 < int(text) < 2**31):
        raise Refused(failure.USAGE, f"{option} wants a number above 0")
    return int(text)


def descriptor(values: list[str], option: str) -> int:
    """The one value, which must be the number of an open descriptor above 2."""
    candidate = number(values, option)
    try:
        posix.fstat(candidate)
    except OSError:
        candidate = 0
    if candidate <= 2:
        raise Refused(failure.USAGE, f"{option} wants an open descriptor above 2")
    return candidate


def refuse(refused: Refused, status_descriptor: int | None) -> "NoReturn":
    """Says why on stderr, and on the status descriptor that nothing ran; ends the process."""
    lines = f"sandbox: error: {refused}\n"
    if refused.hint:
        lines += f"sandbox: hint: {refused.hint}\n"
    try:
        write_all(2, lines.encode("utf-8", "surrogateescape"))
        if status_descriptor is not None:
            write_all(status_descriptor, b'{"refused": %d}\n' % refused.code)
    except OSError:
        pass  # nobody listens: the exit code still tells
    posix._exit(refused.code)


if __name__ == "__main__":
    main(sys.argv[1:])
