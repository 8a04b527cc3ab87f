"""What is said of a failed attempt, and which line of the config mends it."""

from __future__ import annotations

from typing import Any

import pytest

from builder.attempt import Attempt, Raised
from builder.jailrun import Outcome
from builder.remedy import Context, Failure, died, explain_import, render
from builder.status import Denied

CONTEXT = Context(
    limits={
        "memory_bytes": 1 << 30,
        "cpu_s": 10,
        "processes": 64,
        "open_files": 256,
        "file_size_bytes": 3 << 19,
        "scratch_bytes": 1000,
        "output_bytes": 10 << 20,
    },
    timeout_s=60,
    waited_s=600,
    owners={"numpy": "numpy", "cv2": "opencv-python-headless"},
    locked=frozenset({"opencv-python-headless"}),
    library={"libGL.so.1": "base_packages: [libgl1]"}.get,
)
NUMPY = """

IMPORTANT: PLEASE READ THIS FOR ADVICE ON HOW TO SOLVE THIS ISSUE!

Original error was: libgfortran.so.5: cannot open shared object file: No such file or directory
"""


def denied(call: str, allow: str) -> Denied:
    return Denied(call, 1, (0,) * 6, None, (), allow, "", passed=False)


def explain(
    *raised: Raised, exit_code: int = 1, stderr: str = "", calls: tuple[Denied, ...] = (), **outcome: Any
) -> Failure:
    ended = Outcome(exit_code, {"level": "chroot"}, denied=calls, **outcome)
    return explain_import(
        "cv2", "opencv-python-headless", "5.0", Attempt(ended, raised=raised, stderr=stderr), CONTEXT
    )


@pytest.mark.parametrize(
    ("kind", "text", "why", "hint"),
    [
        (
            "ImportError",
            "libGL.so.1: cannot open shared object file: No such file or directory",
            "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
            "base_packages: [libgl1]",
        ),
        (
            "ImportError",
            NUMPY,
            "ImportError: Original error was: "
            "libgfortran.so.5: cannot open shared object file: No such file or directory",
            "libgfortran.so.5 is not in the jail: name the Debian package that has it in base_packages",
        ),
        (
            "ImportError",
            "/lib/libm.so.6: version `GLIBC_2.38' not found (required by /packages/cv2.so)",
            "ImportError: /lib/libm.so.6: version `GLIBC_2.38' not found (required by /packages/cv2.so)",
            "the base's library has no GLIBC_2.38: take a newer base, or an older opencv-python-headless",
        ),
        (
            "ImportError",
            "/packages/cv2.so: undefined symbol: TIFFOpen, version LIBTIFF_4",
            "ImportError: /packages/cv2.so: undefined symbol: TIFFOpen, version LIBTIFF_4",
            "no library in the jail has TIFFOpen: "
            "opencv-python-headless was made for other versions than these",
        ),
        ("MemoryError", "", "MemoryError", "limits: {memory: 2GiB}"),
        (
            "ImportError",
            "libx.so: failed to map segment from shared object",
            "ImportError: libx.so: failed to map segment from shared object",
            "limits: {memory: 2GiB}",
        ),
        (
            "RuntimeError",
            "can't start new thread",
            "RuntimeError: can't start new thread",
            "limits: {processes: 128, memory: 2GiB}",
        ),
        (
            "OSError",
            "[Errno 24] Too many open files",
            "OSError: [Errno 24] Too many open files",
            "limits: {open_files: 512}",
        ),
        (
            "OSError",
            "[Errno 27] File too large",
            "OSError: [Errno 27] File too large",
            "limits: {file_size: 3MiB}",
        ),
        (
            "OSError",
            "[Errno 28] No space left on device",
            "OSError: [Errno 28] No space left on device",
            "limits: {scratch: 2000}",
        ),
        (
            "PermissionError",
            "[Errno 13] Permission denied: '/packages'",
            "PermissionError: [Errno 13] Permission denied: '/packages'",
            "only the folder in $TMPDIR can be written: point it there, where jail: {env: ...} can",
        ),
        ("ValueError", "x" * 1000, f"ValueError: {'x' * 288}...", ""),
    ],
)
def test_exceptions(kind: str, text: str, why: str, hint: str) -> None:
    """What the loader, a limit or a folder says is known; of all else the line is shown."""
    found = explain(Raised(kind, text))
    assert found.what == "import cv2 (opencv-python-headless 5.0)"
    assert found.why == why
    assert found.hint == (f"{hint}; or " if hint else "") + "leave it out: verify: {skip: [cv2]}"


def test_missing_modules() -> None:
    """Of Debian's packages, of a package that is there, of Python, of one that forges its name."""

    def hint(name: str, missing: str, distribution: str | None = "opencv-python-headless") -> str:
        attempt = Attempt(Outcome(1, {}), raised=(Raised("ModuleNotFoundError", "No module", missing),))
        return explain_import(name, distribution, "1", attempt, CONTEXT).hint.partition("; or ")[0]

    assert hint("cv2", "yaml.nodes") == "add yaml to dependencies, or the package that has it"
    assert hint("cv2", "yaml", "python3-thing") == "add the Debian package of Python's yaml to base_packages"
    assert hint("cv2", "numpy.tests") == "numpy.tests is left out of the jail: keep_whole: [numpy]"
    assert hint("cv2", "curses") == "curses is of Python's own library, which the jail has without it"
    assert hint("cv2", "cv2") == "leave it out: verify: {skip: [cv2]}"
    assert hint("absent", "absent", None) == "add the package that has absent to dependencies"
    assert hint("cv2", "a; b\n") == "leave it out: verify: {skip: [cv2]}"


def test_denied_calls_are_the_reason_where_nothing_else_is() -> None:
    """A thread that the policy denies is no limit; a library that is missing is no policy."""
    clone = denied("clone", "syscalls: {groups: [threads]}")
    both = (clone, denied("vfork", "syscalls: {groups: [processes]}"))
    found = explain(Raised("RuntimeError", "can't start new thread"), calls=both)
    assert found.why == "RuntimeError: can't start new thread; denied: clone, vfork"
    assert found.hint.startswith("syscalls: {groups: [threads]} and syscalls: {groups: [processes]}; or ")
    assert explain(
        Raised("ImportError", "libGL.so.1: cannot open shared object file"), calls=both
    ).hint.startswith("base_packages: [libgl1]")
    ended = explain(
        exit_code=3, stderr="OpenBLAS: pthread_create failed\nsandbox: denied clone\n", calls=(clone,)
    )
    assert (
        ended.why
        == "it ended the interpreter with exit code 3: OpenBLAS: pthread_create failed; denied: clone"
    )
    assert ended.hint.startswith("syscalls: {groups: [threads]}; or ")


def test_ends_without_an_exception() -> None:
    """Signals, limits, time, the runtime itself."""
    assert explain(exit_code=139).why == "the interpreter crashed, killed by SIGSEGV"
    assert explain(exit_code=134, stderr="terminate: std::bad_alloc\n").hint.startswith(
        "limits: {memory: 2GiB}"
    )
    assert explain(exit_code=137).hint.startswith("limits: {cpu_s: 20}; or ")
    assert explain(exit_code=255).why == "it ended the interpreter with exit code 255"
    assert explain(exit_code=124, stopped="timeout").why == "it did not end within 600 s"
    assert explain(exit_code=124, stopped="timeout").hint.startswith("verify: {timeout_s: 120}; or ")
    refused = explain_import("a", "b", "", Attempt(Outcome(213, {"refused": 213})), CONTEXT)
    assert (refused.what, refused.why) == ("import a (b)", "the jail refused to run it (exit code 213)")


def test_what_an_emulator_may_be_at_fault_for() -> None:
    """A signal or a time-out, and no exception."""
    assert died(Attempt(Outcome(139, {})))
    assert died(Attempt(Outcome(124, {}, "timeout")))
    assert not died(Attempt(Outcome(1, {})))
    assert not died(Attempt(Outcome(139, {}), raised=(Raised("ImportError", ""),)))


def test_what_is_shown_is_bounded() -> None:
    """Many failures are told in full up to a number, and the others by their names."""
    many = [Failure(f"import m{n}", "one\ntwo", "mend it") for n in range(1000)]
    lines = render(many, 2).splitlines()
    assert lines[:4] == ["  import m0: one", "    two", "    hint: mend it", "  import m1: one"]
    assert len(lines) == 7
    assert lines[-1].startswith("  and 998 more: import m2, import m3")
    assert len(lines[-1]) < 400
