"""A machine of either architecture, emulated, with Debian's kernel and a built image as its root."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

from builder.arch import Arch
from builder.archive import open_archive, unpack_archive
from tests.conftest import Result
from tests.machine.cpio import CpioWriter
from tests.machine.kernels import kernel

GUEST = Path(__file__).parent / "guest"
BOOT_S = 120
"""What a machine may take until its first process answers."""

_SLACK_S = 60
"""What an answer may take beyond the time that its command is given."""
_MIB = 3072
_LAST_LINES = 120
"""Of the console, for a failure: the first lines of a panic say what it is."""

# Mitigations of speculation, and on arm64 kernel page tables of their own, which KASLR asks for, protect
# nothing that is emulated, and are a third of what a run takes.
_KERNEL = "quiet panic=-1 mitigations=off nokaslr"
_INIT = "-I -S -B /machine/init.py"
"""Arguments of the image's interpreter, which the kernel starts as its first process."""


@dataclass(frozen=True)
class Board:
    """What qemu emulates. By software alone, on every host: so both architectures run on the same footing."""

    program: str
    options: tuple[str, ...]
    threads: str
    """`multi`: each processor is emulated by a thread of its own. `single`: they take turns on one."""
    console: str


BOARDS = {
    # Not `max`: a Neoverse N1 has no pointer authentication, which is dear to emulate, and 32-bit programs.
    "arm64": Board(
        *("qemu-system-aarch64", ("-machine", "virt,gic-version=3", "-cpu", "neoverse-n1"), "multi"),
        console="ttyAMA0",
    ),
    # With RDRAND, without which the kernel has no random numbers to give for minutes. In turns, for the
    # kernel changes its own instructions as it runs, on amd64 behind an int3: with two threads one translates
    # that just as the other replaces it, runs into it later, and the kernel panics.
    "amd64": Board("qemu-system-x86_64", ("-machine", "q35", "-cpu", "max"), "single", console="ttyS0"),
}


@dataclass(frozen=True)
class Ended:
    """How a command ended. `exit_code` is a shell's: 128 + N for signal N."""

    exit_code: int
    stdout: str
    stderr: str
    status: str
    """What was written to --status-fd."""


class MachineFailed(Exception):
    """The machine did not start, did not answer, or is gone."""


class Machine:
    """One that runs. Any number of threads may ask it at the same time."""

    def __init__(
        self, arch: Arch, entrypoint: Sequence[str], port: socket.socket, console: IO[bytes]
    ) -> None:
        self.arch = arch
        self.entrypoint = tuple(entrypoint)
        """The image's own, from its config."""
        self.release = ""
        """What uname(2) says that the kernel is."""
        self._port = port
        self._lock = threading.Lock()
        self._last = 0
        self._waiting: dict[int, Future[dict[str, Any]]] = {0: Future()}
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._threads = [
            threading.Thread(target=self._read_console, args=(console,), daemon=True),
            threading.Thread(target=self._read_answers, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def wait_until_up(self) -> None:
        """Returns when the first process has said that it is there."""
        said = self._result(self._waiting[0], BOOT_S)
        self.release = said["kernel"]
        if said["machine"] != self.arch.machine:
            raise MachineFailed(f"it is {said['machine']}, not {self.arch.machine}")

    @property
    def interpreter(self) -> list[str]:
        """The image's own, without any lock-down."""
        return [*self.entrypoint[1:2], "-I", "-S", "-B"]

    def run(
        self,
        place: str,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        status: bool = False,
        scratch: bool = False,
        network: bool = False,
        timeout_s: float = 60,
    ) -> Ended:
        """Runs `command` in one of guest/places.py's places, and waits for its end.

        With `status` it is the image's entrypoint, which gets --status-fd. MachineFailed after the time-out.
        """
        request = {
            "place": place,
            "command": list(command),
            "stdin": base64.b64encode(stdin).decode(),
            "env": {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **(env or {})},
            "status": len(self.entrypoint) if status else None,
            "scratch": scratch,
            "network": network,
            "timeout_s": timeout_s,
        }
        answer = self._ask(request, timeout_s + _SLACK_S)
        out, err, told = (
            base64.b64decode(answer[name]).decode(errors="replace") for name in ("stdout", "stderr", "status")
        )
        if answer["timed_out"]:
            raise MachineFailed(
                f"{place}: {command} took longer than {timeout_s} s: {out[-2000:]}{err[-2000:]}"
            )
        return Ended(answer["exit_code"], out, err, told)

    def execute(self, place: str, *arguments: str, **options: Any) -> Ended:
        """Runs the image as a container engine does: its entrypoint, with `arguments`."""
        return self.run(place, [*self.entrypoint, *arguments], **options)

    def python(self, place: str, code: str, **options: Any) -> Ended:
        """Runs `code` outside of every jail."""
        return self.run(place, [*self.interpreter, "-c", code], **options)

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            self._last += 1
            self._waiting[self._last] = future
            try:
                self._port.sendall(json.dumps(request | {"id": self._last}).encode() + b"\n")
            except OSError:
                raise self._gone() from None
        answer = self._result(future, timeout_s)
        if "failed" in answer:
            raise MachineFailed(answer["failed"])
        return answer

    def _result(self, future: Future[dict[str, Any]], timeout_s: float) -> dict[str, Any]:
        try:
            return future.result(timeout_s)
        except TimeoutError:
            raise MachineFailed(f"{self.arch.name}: no answer in {timeout_s} s{self._console()}") from None

    def _gone(self) -> MachineFailed:
        self._threads[0].join()  # when all that the console said has been read
        return MachineFailed(f"{self.arch.name}: the machine is gone{self._console()}")

    def _console(self) -> str:
        return "".join(f"\n  < {line}" for line in self._lines)

    def _read_console(self, console: IO[bytes]) -> None:
        for line in console:
            self._lines.append(line.decode(errors="replace").rstrip())

    def _read_answers(self) -> None:
        with self._port.makefile("rb") as answers:
            for line in answers:
                answer = json.loads(line)
                self._waiting[answer["id"]].set_result(answer)
        gone = self._gone()
        for future in [*self._waiting.values()]:
            if not future.done():
                future.set_exception(gone)


@dataclass(frozen=True)
class Inside:
    """A place of a machine, as the escape tests know places: code goes in, a result comes out."""

    machine: Machine
    place: str
    jailed: bool
    scratch: bool = False
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def arch(self) -> Arch:
        return self.machine.arch

    def run(self, code: str, *, stdin: str | None = None, timeout_s: float = 60) -> Result:
        start = self.machine.execute if self.jailed else self.machine.python
        arguments = ("-c", code) if self.jailed else (code,)
        ended = start(
            *(self.place, *arguments),
            stdin=(stdin or "").encode(),
            scratch=self.scratch,
            env=self.env,
            timeout_s=timeout_s,
        )
        return Result(ended.exit_code, ended.stdout, ended.stderr)


@contextmanager
def running(arch: Arch, image: Path) -> Iterator[Machine]:
    """A machine with the image in the archive `image`, starting; without network, and gone at the end."""
    board = BOARDS[arch.name]
    with ExitStack() as stack:
        with open_archive(image) as archive, archive.blob(archive.config) as config:
            entrypoint = json.load(config)["config"]["Entrypoint"]
        root = stack.enter_context(tempfile.TemporaryFile())
        _write_root(image, root)
        ours, theirs = map(stack.enter_context, socket.socketpair())
        port = ("-device", "virtio-serial-pci", "-chardev", f"socket,id=port,fd={theirs.fileno()}")
        command = [
            # However we end, it ends.
            *("setpriv", "--pdeathsig=KILL"),
            *(board.program, *board.options, "-accel", f"tcg,thread={board.threads}"),
            *("-smp", "2", "-m", f"{_MIB}M"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
            *(*port, "-device", "virtserialport,chardev=port"),
            *("-kernel", str(kernel(arch)), "-initrd", f"/dev/fd/{root.fileno()}"),
            *("-append", f"console={board.console} {_KERNEL} rdinit={entrypoint[1]} -- {_INIT}"),
        ]
        process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(root.fileno(), theirs.fileno()),
            )
        )
        stack.callback(process.kill)
        theirs.close()
        assert process.stdout is not None
        yield Machine(arch, entrypoint, ours, process.stdout)


def _write_root(image: Path, file: BinaryIO) -> None:
    """Writes the initramfs: the image's root, and in /machine what asks and is asked."""
    archive = CpioWriter(file)
    with tempfile.TemporaryDirectory() as folder:
        unpack_archive(image, Path(folder) / "root")
        archive.add_tree(Path(folder) / "root")
    archive.add_folder("machine")
    for path in sorted(GUEST.glob("*.py")):
        archive.add_path(path, f"machine/{path.name}")
    archive.finish()
    file.flush()
