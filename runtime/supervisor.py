"""Says which system call was denied: a process beside the run, which the kernel asks for the answer.

    supervisor MODE LISTENER STACKS RUN STATUS [PORT]

Started by /sandbox/init when the first call is denied; the descriptors are the filter's listener
(seccomp_unotify(2)), what threads say of themselves, a pidfd of the run, and where the status goes (or -1).
MODE is errno, kill or log, as in config.yaml, or trace. PORT is the proxy's, where there is a network.allow:
then the code gets sockets that are connected to it (lending.py).

The calls that the policy denies come here with their number and arguments, which no program in the jail can
forge; all others never leave the kernel. The supervisor stands outside the jail and under another user where
there is one, and ends with the run. Should it end before, the kernel answers denied calls with ENOSYS:
nothing is let through. The Python line that made a call comes out of the jail: it is bounded and checked.
"""

import _signal  # type: ignore[import-not-found]  # `signal` would import enum
import posix
import sys
from _json import encode_basestring_ascii as quoted
from time import monotonic_ns

sys.path.insert(0, "/sandbox")

from runtime import kernel
from runtime.channel import QUESTION_SIGNAL
from runtime.image import SANDBOX, parse_json, read_file
from runtime.program import FILE_NAME
from runtime.remedy import kept, probed, way

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

    from runtime.lending import Lender

# linux/seccomp.h
RECV, SEND, IS_VALID = 0xC0502100, 0xC0182101, 0x40082102  # SECCOMP_IOCTL_NOTIF_*
NOTIFICATION_BYTES, RESPONSE_BYTES = 80, 24  # struct seccomp_notif, struct seccomp_notif_resp
FLAG_CONTINUE = 1
EPERM = 1
SIGKILL = 9

QUESTION_MS = 20
LATE_MS = 2
MAX_SILENCE = 3
"""After so many threads in a row that did not say where they are, none is asked any more."""
COUNTS_MS = 100
MAX_TEXT_LINES = 64
"""So many denied calls are named on stderr; all are counted."""
MAX_KINDS = 8
"""So many ways to allow one call are told apart; code can make up any number of ioctl(2) requests."""
MAX_FRAMES = 20
MAX_STACK_BYTES = 1 << 16


class Denied:
    """One call that was denied, for one reason, however often."""

    def __init__(
        self, name: str, number: int, arguments: list[int], allow: str, danger: str, kept: bool
    ) -> None:
        self.name = name
        self.number = number
        self.arguments = arguments
        self.allow = allow
        self.danger = danger
        self.kept = kept
        """Nothing in config.yaml opens it, so neither does a trace."""
        self.passed = False
        self.ends_process = False
        self.line: int | None = None
        self.stack: list[tuple[str, int]] = []
        self.count = 0


class Question:
    """A thread that was asked where it is, and waits in its call meanwhile."""

    def __init__(self, identity: int, thread: int, arguments: list[int], denied: Denied) -> None:
        self.identity = identity
        self.thread = thread
        self.arguments = arguments
        self.denied = denied
        self.answered = False
        """The call was answered already: the thread may have blocked the signal for as long as it lasts."""
        self.ends_ms = clock_ms() + QUESTION_MS


class Supervisor:
    """Answers the calls that one run is denied, until the run's first process has ended."""

    def __init__(
        self, mode: str, listener: int, stacks: int, run: int, status: int, port: int | None = None
    ) -> None:
        self.mode = mode
        self.lender: Lender | None = None if port is None else lender(listener, port)
        self.listener = listener
        self.stacks = stacks
        self.run = run
        self.status: int | None = None if status < 0 else status
        names = parse_json(read_file(SANDBOX + "/calls.json"))
        self.arch: str = names["arch"]
        self.calls: dict[str, Any] = names["calls"]
        self.denied: dict[tuple[int, str], Denied] = {}
        self.kinds: dict[int, int] = {}
        self.question: Question | None = None
        self.held: list[tuple[int, int, int, list[int]]] = []
        self.silence = 0
        self.text_lines = 0
        self.uncounted: set[Denied] = set()
        self.counts_ms = 0

    def serve(self) -> None:
        """Returns when the run has ended."""
        while True:
            # A late answer shows by its text alone; of one that is in time, the call itself tells.
            late = self.question is not None and self.question.answered
            sources = [self.run, self.listener, *([self.stacks] if late else [])]
            ended, asked, *said = kernel.poll([(one, kernel.POLLIN) for one in sources], self._patience_ms())
            if ended:
                while self.question is not None:
                    self._resolve(self.question)
                self._write_counts()
                return
            if asked and (notification := receive(self.listener)):
                self._take(*notification)
            now = clock_ms()
            if self.question is not None and (now >= self.question.ends_ms or any(said)):
                self._go_on(self.question, heard=any(said))
            if self.uncounted and now >= self.counts_ms:
                self._write_counts()

    def _patience_ms(self) -> int:
        ends = [self.question.ends_ms] if self.question is not None else []
        if self.uncounted:
            ends.append(self.counts_ms)
        return max(0, min(ends) - clock_ms()) if ends else -1

    def _take(self, identity: int, thread: int, number: int, arguments: list[int]) -> None:
        """One denied call: answered if it is known, else its thread is asked where it is."""
        if self.lender is not None:
            name = self._call(number)["name"]
            if self.lender.answers(identity, name, arguments):
                return
        question = self.question
        if (
            question is not None
            and not question.answered
            and (thread, number, arguments) == (question.thread, question.denied.number, question.arguments)
        ):
            # The signal has interrupted the call, the thread has answered, and the kernel has begun it again.
            question.identity = identity
            self.silence = 0
            self._resolve(question)
            return
        if probed(self._call(number), arguments):
            respond(self.listener, identity, let_through=False)
            return
        denied, is_new = self._find(number, arguments)
        if question is not None and (is_new or (denied is question.denied and not question.answered)):
            self.held.append((identity, thread, number, arguments))  # no longer than one question lasts
            return
        if not is_new:
            self._answer(identity, thread, arguments, denied)
            return
        self._keep(denied)
        if self.silence < MAX_SILENCE:
            drain(self.stacks)
            self.question = Question(identity, thread, arguments, denied)
            try:
                self._expect_alive(identity)
                kernel.call(kernel.SYS_tkill, thread, QUESTION_SIGNAL)
                return
            except OSError:
                self.question = None  # it has ended, or belongs to somebody else by now
        self._tell(denied)
        self._answer(identity, thread, arguments, denied)

    def _expect_alive(self, identity: int) -> None:
        """OSError where the thread waits for its answer no more, and its number may be another's."""
        still = bytearray(identity.to_bytes(8, "little"))
        kernel.call(kernel.SYS_ioctl, self.listener, IS_VALID, still)

    def _go_on(self, question: Question, heard: bool) -> None:
        """A question has lasted long enough, or its late answer is coming in."""
        if question.answered or question.denied.ends_process:
            self.silence = 0 if heard else self.silence + 1
            self._resolve(question)
            return
        # fork(2), pthread_create(3) and posix_spawn(3) block all signals during their call: the thread will
        # get this one right after it.
        question.answered = True
        question.ends_ms = clock_ms() + QUESTION_MS
        self._answer(question.identity, question.thread, question.arguments, question.denied)

    def _resolve(self, question: Question) -> None:
        self.question = None
        if question.answered:
            kernel.poll([(self.run, kernel.POLLIN)], LATE_MS)  # the handler writes line by line
        stack = parse_stack(drain(self.stacks))
        question.denied.line = next((line for path, line in stack if path == FILE_NAME), None)
        question.denied.stack = stack[:MAX_FRAMES]
        self._tell(question.denied)
        if not question.answered:
            self._answer(question.identity, question.thread, question.arguments, question.denied)
        held, self.held = self.held, []
        for notification in held:
            self._take(*notification)

    def _find(self, number: int, arguments: list[int]) -> tuple[Denied, bool]:
        """What is known of a call with these arguments; else something new, which nobody keeps yet."""
        call = self._call(number)
        closed = kept(call, arguments)
        allow = closed or way(call, arguments)
        if self.kinds.get(number, 0) >= MAX_KINDS and not closed and (number, allow) not in self.denied:
            allow = ""
        known = self.denied.get((number, allow))
        if known is not None:
            return known, False
        return Denied(call["name"], number, arguments, allow, call.get("danger", ""), bool(closed)), True

    def _call(self, number: int) -> "dict[str, Any]":
        return self.calls.get(str(number)) or {"name": "a call without a name", "ways": []}

    def _keep(self, denied: Denied) -> None:
        self.denied[denied.number, denied.allow] = denied
        self.kinds[denied.number] = self.kinds.get(denied.number, 0) + 1
        denied.passed = self.mode in ("log", "trace") and not denied.danger and not denied.kept
        denied.ends_process = self.mode == "kill"

    def _answer(self, identity: int, thread: int, arguments: list[int], denied: Denied) -> None:
        if denied.ends_process:
            try:
                self._expect_alive(identity)
            except OSError:
                return
            posix.kill(thread, SIGKILL)  # where it is not ours to end, we end, and init ends the run
            self._count(denied)
            return
        # Asked anew of each call: what is told of one kind together need not be let through together.
        let_through = denied.passed and not kept(self._call(denied.number), arguments)
        if respond(self.listener, identity, let_through):
            self._count(denied)

    def _count(self, denied: Denied) -> None:
        if not self.uncounted:
            self.counts_ms = clock_ms() + COUNTS_MS
        denied.count += 1
        self.uncounted.add(denied)

    def _tell(self, denied: Denied) -> None:
        """Names the call, on stderr and on the status descriptor, before it is answered."""
        if self.mode != "trace":
            self.text_lines += 1
            if self.text_lines <= MAX_TEXT_LINES and not write_patiently(2, self._sentence(denied).encode()):
                self.text_lines = MAX_TEXT_LINES + 1  # nobody reads it
            elif self.text_lines == MAX_TEXT_LINES + 1:
                write_patiently(2, b"sandbox: further denied calls are counted, and not named\n")
        if self.status is not None:
            frames = ", ".join(f"[{quoted(path)}, {line}]" for path, line in denied.stack)
            self._write_status(
                f'{{"denied": {{"call": {quoted(denied.name)}, "number": {denied.number}, '
                f'"arguments": {denied.arguments}, "line": {denied.line or "null"}, "stack": [{frames}], '
                f'"allow": {quoted(denied.allow)}, "danger": {quoted(denied.danger)}, '
                f'"passed": {"true" if denied.passed else "false"}}}}}\n'
            )

    def _sentence(self, denied: Denied) -> str:
        done = "let through" if denied.passed else "denied"
        place = f" at line {denied.line} of the code" if denied.line else ""
        ends = ", which ends its process" if denied.ends_process else ""
        danger = f"; dangerous: {denied.danger}" if denied.danger else ""
        lead = "" if denied.allow.startswith("nothing") else "to allow it: "
        allow = f"; {lead}{denied.allow}" if denied.allow else ""
        return f"sandbox: {done} {denied.name} ({denied.number}, {self.arch}){place}{ends}{danger}{allow}\n"

    def _write_counts(self) -> None:
        # One whose thread is still being asked has not been told of yet.
        untold = {self.question.denied} if self.question is not None else set()
        changed, self.uncounted = self.uncounted - untold, self.uncounted & untold
        self.counts_ms = clock_ms() + COUNTS_MS
        if self.status is not None and changed:
            totals = ", ".join(f"[{quoted(one.name)}, {quoted(one.allow)}, {one.count}]" for one in changed)
            self._write_status(f'{{"counts": [{totals}]}}\n')

    def _write_status(self, line: str) -> None:
        assert self.status is not None  # noqa: S101 - asked by both callers
        if not write_patiently(self.status, line.encode()):
            self.status = None  # nobody reads it, and half a line may be out


def parse_stack(text: bytes) -> list[tuple[str, int]]:
    """(path, line) of each frame that faulthandler wrote, innermost first, without the import system and us.

    Whatever is not such a line is passed over: the code in the jail may have written it.
    """
    stack = []
    for line in text.split(b"\n"):
        head, found, tail = line.rpartition(b'", line ')
        number = tail.partition(b" ")[0]
        if found and head.startswith(b'  File "') and number.isdigit() and len(number) < 10:
            path = "".join(c if c.isprintable() else "?" for c in head[8:].decode("ascii", "replace"))
            if not path.startswith(("<frozen ", SANDBOX + "/")):
                stack.append((path[-256:], int(number)))
    return stack


def lender(listener: int, port: int) -> "Lender":
    """What gives the run sockets."""
    from runtime.lending import Lender  # and a socket module with it, which most runs need not load

    return Lender(listener, port)


def receive(listener: int) -> "tuple[int, int, int, list[int]] | None":
    """(identity, thread, number, arguments) of the next denied call; None where its thread has ended."""
    buffer = bytearray(NOTIFICATION_BYTES)  # the kernel wants zeros
    try:
        kernel.call(kernel.SYS_ioctl, listener, RECV, buffer)
    except OSError:
        return None
    words = memoryview(buffer).cast("Q")
    return words[0], words[1] & 0xFFFF_FFFF, words[2] & 0xFFFF_FFFF, list(words[4:])


def respond(listener: int, identity: int, let_through: bool) -> bool:
    """EPERM, or the call is let through; False where there is nobody to be answered any more."""
    response = bytearray(RESPONSE_BYTES)
    words = memoryview(response).cast("Q")
    words[0] = identity
    words[2] = FLAG_CONTINUE << 32 if let_through else -EPERM & 0xFFFF_FFFF
    words.release()
    try:
        kernel.call(kernel.SYS_ioctl, listener, SEND, response)
    except OSError:
        return False  # the thread has ended, or a signal has interrupted its call, which then comes again
    return True


def drain(stacks: int) -> bytes:
    """What is in the pipe, as much as one can hold: what is written meanwhile may be left."""
    parts = []
    for _ in range(MAX_STACK_BYTES >> 12):
        try:
            part = posix.read(stacks, 1 << 12)
        except OSError:
            break  # EAGAIN
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def write_patiently(target: int, data: bytes) -> bool:
    """Writes `data`, and gives up after a second without room: whoever reads it must not hold up the run."""
    while data:
        try:
            if not kernel.poll([(target, kernel.POLLOUT)], 1000)[0]:
                return False
            data = data[posix.write(target, data[:512]) :]  # PIPE_BUF at least: no write of it blocks
        except OSError:
            return False
    return True


def clock_ms() -> int:
    """Milliseconds of a clock that is never set."""
    return monotonic_ns() // 10**6


def main(mode: str, *descriptors: str) -> None:
    """Serves until the run has ended."""
    try:
        # Nothing that the run sends may stop it; what is sent to the whole group is for the run to answer.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        kernel.prctl(kernel.PR_SET_PDEATHSIG, SIGKILL)
        kernel.set_capabilities(kernel.capabilities()[1] & 1 << kernel.CAP_KILL)  # to signal the run's user
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        Supervisor(mode, *map(int, descriptors)).serve()
    except BaseException as error:
        said = f"sandbox: error: the supervisor failed: {type(error).__name__}: {error}\n"
        write_patiently(2, said.encode("ascii", "replace"))
        posix._exit(1)
    posix._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
