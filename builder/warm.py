"""Which modules a server should import once for all of its runs: measured in the finished jail, and proposed.

What is warm is forked into every run. So a module that has threads or open descriptors after its import is
not proposed: threads do not come along, and a descriptor would be one and the same in all runs. Threads that
end when the process forks are no obstacle: the module's own handler (pthread_atfork) sees to them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder import jailrun
from builder.arch import host_arch
from builder.attempt import Beginning, Jailed
from builder.image_settings import read_settings
from builder.progress import Progress
from builder.proof import Proof
from builder.seccomp.syscalls import number
from builder.tree.distributions import normalized

_WORTH_S = 0.020
"""Less saved is not worth a line in config.yaml, nor a look at a module that takes less by itself."""

_ADDS_S = 0.005
"""A module that takes less once the others are there is not proposed beside them."""

_MOST_MODULES = 20
"""So many of the slowest are measured."""

_MOST_DESCRIPTORS = 4096
_MOST_BYTES = 1 << 20

PROGRAM = """\
def measure():
    import sys
    from posix import _exit, dup, dup2, fork, fstat, getpid, waitpid, write
    from time import perf_counter
    word, tgkill, most, *names = sys.argv[1:]
    del sys.argv[1:], sys.orig_argv[1:]
    told = dup(1)
    dup2(2, 1)
    helpers = set()
    def tell(*fields):
        texts = (str(field)[:1000].encode("utf-8", "backslashreplace") for field in fields)
        line = " ".join(text.hex() or "-" for text in texts)
        write(told, f"\\n{word} {line}\\n".encode())
    def threads():
        python = len(sys._current_frames()) - 1
        try:
            import _thread, ctypes
            newest = []
            ready = _thread.allocate_lock()
            ready.acquire()
            def be_the_newest():
                newest.append(_thread.get_native_id())
                ready.release()
            _thread.start_new_thread(be_the_newest, ())
            ready.acquire()
            helpers.update(newest)
            syscall, pid = ctypes.CDLL(None).syscall, getpid()
            ids = set(range(pid + 1, min(newest[0], pid + 65536))) - helpers
            return max(python, sum(syscall(int(tgkill), pid, one, 0) == 0 for one in ids))
        except (ImportError, AttributeError, OSError, RuntimeError):
            return python
    def descriptors():
        found = set()
        for one in range(3, int(most)):
            try:
                fstat(one)
                found.add(one)
            except OSError:
                pass
        return found
    def end_threads():
        try:
            child = fork()
        except OSError:
            return
        if child == 0:
            _exit(0)
        waitpid(child, 0)
    counted, opened = 0, descriptors()
    for name in names:
        started = perf_counter()
        try:
            __import__(name)
        except BaseException as error:
            tell(name, "failed", type(error).__name__, error)
            _exit(1)
        seconds = perf_counter() - started
        found = threads()
        if found > counted:
            tell(name, "forking", found - counted)
            end_threads()
            found = threads()
        now = descriptors()
        tell(name, "imported", seconds, max(found - counted, 0), len(now - opened))
        counted, opened = found, now
    _exit(0)
measure()
"""
"""Imports the modules that its further arguments name, one after the other, and says what each leaves behind.

No /proc is in a jail. A thread is there where tgkill(2) finds one to send no signal to, and its id is between
the process's and that of a thread that is newer. A fork that the policy denies has called the handlers, too:
glibc does so before it asks the kernel.
"""


@dataclass(frozen=True)
class Imported:
    """One module of several that were imported one after the other."""

    name: str
    seconds: float
    """What its import took where those before it were there already."""
    fault: str
    """Why it must not be warm; empty where it may."""


@dataclass(frozen=True)
class Proposal:
    """What is worth being warm."""

    warm: tuple[str, ...]
    """What config.yaml has now."""
    modules: tuple[str, ...]
    """What it should have besides."""
    saves_s: float
    """Of each run that imports all of `modules`."""
    faults: Mapping[str, str]
    """Modules that it has, or would be worth having, and why not."""

    def lines(self) -> list[str]:
        """The proposal for a person; nothing where there is none."""
        lines = []
        if self.modules:
            names = ", ".join((*self.warm, *self.modules))
            what = "it" if len(self.modules) == 1 else "them"
            of = "" if not self.warm else f" {', '.join(self.modules)}"
            lines.append(
                f"warm: [{names}] in config.yaml would save {self.saves_s * 1000:.0f} ms of each run "
                f"that imports{of or f' {what}'}"
            )
        return [*lines, *(f"warm: not {name}: {fault}" for name, fault in self.faults.items())]

    def as_data(self) -> dict[str, Any]:
        """The proposal as JSON has it."""
        return asdict(self)


def propose(root: Path, report: Mapping[str, Any], proof: Proof, progress: Progress) -> Proposal | None:
    """What of the image that is unpacked at `root` is worth being warm; None where that cannot be measured.

    `report` is its report.json, `proof` what its imports took one by one.
    """
    settings = read_settings(root)
    warm = tuple(settings["serve"]["warm"])
    if proof.how != "jail" or settings["serve"]["fresh"]:
        return None
    names = [name for name in _candidates(report, proof) if name not in warm]
    faults: dict[str, str] = {}
    found: list[Imported] = []
    runs = 0
    # Once more where nothing was wrong: what is told is the better one of two.
    while (names or warm) and runs < 2:
        again = _measure(root, settings, (*warm, *names), report["promises"]["timeout_s"] * 4)
        bad = {one.name: one.fault for one in again if one.fault and one.name not in faults}
        progress.detail(f"{len(again)} of {len(warm) + len(names)} modules imported together")
        faults |= bad
        left = [name for name in names if name not in bad]
        if left != names:
            names, found, runs = left, [], 0
            continue
        if len(again) < len(warm) + len(names):
            return None  # a warm one ended it: the proof has tried them one by one
        runs += 1
        if not found or _seconds(again, names) < _seconds(found, names):
            found = again
    added = tuple(one.name for one in found if one.name in names and one.seconds >= _ADDS_S)
    saves_s = round(_seconds(found, added), 3)
    if saves_s < _WORTH_S:
        added, saves_s = (), 0.0
    return Proposal(warm, tuple(sorted(added)), saves_s, faults)


def _candidates(report: Mapping[str, Any], proof: Proof) -> list[str]:
    """The modules of what config.yaml asks for, what takes long; a module before those that import it."""
    # What a package brings along comes with it.
    brought = {
        normalized(origin["what"].partition(" ")[0])
        for origin in report["origins"]
        if origin["kind"] == "package" and origin["because"] is not None
    }
    slow = [
        one
        for one in proof.imports
        if one.seconds >= _WORTH_S and one.distribution and normalized(one.distribution) not in brought
    ]
    slow.sort(key=lambda one: (one.seconds, one.name))
    return [one.name for one in slow[-_MOST_MODULES:]]


def _seconds(found: Sequence[Imported], names: Sequence[str]) -> float:
    return sum(one.seconds for one in found if one.name in names)


def _measure(
    root: Path, settings: Mapping[str, Any], names: Sequence[str], timeout_s: float
) -> list[Imported]:
    """What became of `names`, in that order; the last one is that with which it ended."""
    word = secrets.token_hex(16)
    stdout = Beginning(_MOST_BYTES)
    limits = settings["limits"]
    arguments = [word, str(number("tgkill", host_arch())), str(min(limits["open_files"], _MOST_DESCRIPTORS))]
    ran = Jailed(root, timeout_s).program(
        PROGRAM, [*arguments, *names], stdout, jailrun.own_uid(settings["uid_range"]), None
    )
    told: dict[str, list[str]] = {}
    for line in stdout.getvalue().decode(errors="replace").split("\n"):
        first, *fields = line.split(" ")
        if first == word:
            name, *rest = [bytes.fromhex(one.strip("-")).decode(errors="replace") for one in fields]
            told[name] = rest
    found = []
    for name in names:
        if name not in told:
            ending = ran.outcome.stopped or f"exit code {ran.outcome.exit_code}"
            found.append(Imported(name, 0, f"importing it after the others ended the process ({ending})"))
            break
        found.append(_read(name, told[name]))
        if told[name][0] != "imported":
            break
    return found


def _read(name: str, told: Sequence[str]) -> Imported:
    """What the program said last of a module."""
    verb, *fields = told
    if verb == "failed":
        return Imported(name, 0, f"it cannot be imported after the others: {fields[0]}: {fields[1][:200]}")
    if verb == "forking":
        threads = _count(fields[0], "thread")
        return Imported(name, 0, f"its import starts {threads}, and with them a fork ends the process")
    seconds, threads, descriptors = fields
    if threads != "0":
        left = "stay behind in a fork" if threads != "1" else "stays behind in a fork"
        return Imported(name, float(seconds), f"its import starts {_count(threads, 'thread')}, which {left}")
    if descriptors != "0":
        return Imported(
            name, float(seconds), f"its import leaves {_count(descriptors, 'descriptor')} open, for all runs"
        )
    return Imported(name, float(seconds), "")


def _count(text: str, what: str) -> str:
    return f"{text} {what}" if text == "1" else f"{text} {what}s"
