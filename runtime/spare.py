"""A process that is locked down before it knows what it will run, waits for its job, and does it.

Everything here happens in the child: of the zygote, or, for a `fresh` run, of the server. What comes by the
job's pipe is data until the last step of the lock-down is done.
"""

import posix
import sys
from time import process_time_ns

from runtime import kernel, program
from runtime.channel import Channel
from runtime.failure import INTERNAL, Refused
from runtime.image import parse_json, write_all
from runtime.jail import Jail

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any, NoReturn


class Ends:
    """The child's ends of the pipes that lead to the server, and the socket for the filter's listener."""

    def __init__(self, job: int, status: int, control: int) -> None:
        self.job = job
        self.status = status
        self.control = control


def serve_once(
    settings: "dict[str, Any]",
    order: "dict[str, Any]",
    ends: Ends,
    jail: Jail,
) -> "NoReturn":
    """Locks the process down as `order` says, waits for the job, does it and ends the process.

    `order` has `number` (the run's, and its uid where uids can be had), `scratch` (the private folder as the
    jail sees it, or empty), `limits` (lower than the image's) and `env` (what this service adds).
    """
    try:
        # What a run leaves behind becomes its first process's child, and where that has ended, the zygote's.
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        limits = {**settings["limits"], **order["limits"]}
        # One file at least cannot outgrow the quota before the watcher sees it.
        limits["file_size_bytes"] = min(limits["file_size_bytes"], limits["scratch_bytes"])
        jail.limits = limits
        jail.env = {**settings["env"], **order["env"]}
        jail.scratch = order["scratch"]
        jail.makes_scratch = False
        jail.keep = (ends.job, ends.status)
        # The filter was compiled for this number: a lower limit of open files leaves it out of reach as well.
        jail.channel = Channel(ends.control, settings["on_denied"], None, b"listener %d" % order["number"])
        jail.channel_number = settings["limits"]["open_files"]
        jail.enter()
    except Refused as refused:
        _refuse(ends.status, refused)
    except BaseException as error:
        _refuse(ends.status, Refused(INTERNAL, f"{type(error).__name__}: {error}"))
    program.forget_runtime(settings["sys_path"])
    _reseed()
    program.rehearse()
    try:
        posix.write(ends.status, b'{"cpu_us": %d, ' % (process_time_ns() // 1000) + jail.describe()[1:])
        posix.close(ends.status)
        head, parts = read_job(ends.job)
    except BaseException:
        posix.abort()  # the filter is loaded: no exit code of ours is left
    for name, value in head["env"].items():
        posix.putenv(name.encode(), value.encode())
        posix.environ[name.encode()] = value.encode()
    code, preload, *files = parts
    status = _write_files(head["files"], files, jail.scratch)
    program.begin(head["argv"])
    if preload and not status:
        status = program.run(preload, "preload.py")
    if not status:
        status = program.run(code)
    program.finish(status)


def read_job(source: int) -> "tuple[dict[str, Any], list[bytes]]":
    """The job's head, and its parts: the code, the preload, the files. Ends the process where none comes."""
    received = bytearray()
    while part := posix.read(source, 1 << 16):
        received += part
    posix.close(source)
    if not received:
        posix.abort()  # the server has ended
    line, _, rest = bytes(received).partition(b"\n")
    head = parse_json(line)
    parts, at = [], 0
    for size in head["sizes"]:
        parts.append(rest[at : at + size])
        at += size
    return head, parts


def _write_files(paths: list[str], contents: list[bytes], scratch: str) -> int:
    """Writes the job's files below the private folder, as the run's own user and under its limits."""
    if paths and not scratch:
        posix.write(2, b"sandbox: error: the files could not be written: there is no private folder\n")
        return 1
    made: set[str] = set()
    for path, content in zip(paths, contents, strict=True):
        try:
            folder = ""
            for name in path.split("/")[:-1]:
                folder += name + "/"
                if folder not in made:
                    made.add(folder)
                    posix.mkdir(folder, 0o700)
            target = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
            write_all(target, content)
            posix.close(target)
        except OSError as error:
            posix.write(
                2, f"sandbox: error: the file {path!r} could not be written: {error.strerror}\n".encode()
            )
            return 1
    return 0


def _reseed() -> None:
    """What a library was seeded with in the zygote is another's in each run.

    `random` sees to itself (os.register_at_fork), OpenSSL and `secrets` ask the kernel. numpy does not, and
    these two keep what they have found out.
    """
    if numpy := sys.modules.get("numpy.random"):
        numpy.seed()
    if uuid := sys.modules.get("uuid"):
        uuid._node = uuid._last_timestamp = None  # type: ignore[attr-defined]
    if tempfile := sys.modules.get("tempfile"):
        tempfile.tempdir = tempfile._name_sequence = None  # type: ignore[attr-defined]


def _refuse(status: int, refused: Refused) -> "NoReturn":
    """Tells the server why, in the form `code message`, and ends the process."""
    try:  # noqa: SIM105 - contextlib would be an import
        posix.write(status, f"refused {refused.code} {refused}; {refused.hint}\n".encode("utf-8", "replace"))
    except OSError:
        pass  # the server has ended
    posix._exit(refused.code)
