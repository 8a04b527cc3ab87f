"""The proof of a finished image: what is found, what is said about it, and that the harmless passes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder import jailrun
from builder.arch import host_arch
from builder.errors import VerificationFailed
from builder.progress import Progress
from builder.proof import ProofFailed, prove
from builder.remedy import Failure
from tests.shop import Shop


@pytest.fixture(scope="module")
def shop(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    made = Shop.open(root, tmp_path_factory.mktemp("shop") / "root", host_arch())
    made.limit(cpu_s=2, memory_bytes=4 << 30)
    for name, fault in FAULTS.items():
        made.add(f"bad-{name}", {f"bad_{name}.py": fault.code})
        made.add(f"good-{name}", {f"good_{name}.py": fault.harmless})
    (module,) = made.place.tree.glob("usr/lib/python3*/lib-dynload/_bz2.*.so")
    library = module.read_bytes()
    for name, content in (("bad", library.replace(b"libbz2.so.1.0", b"libxz9.so.1.0")), ("good", library)):
        files = {f"{name}_library/__init__.py": f"from {name}_library import _bz2\n"}
        made.add(f"{name}-library", {**files, f"{name}_library/{module.name}": content})
    yield made
    shutil.rmtree(made.place.root)


def failures(shop: Shop, *names: str, **promises: object) -> tuple[Failure, ...]:
    return failures_of(shop, shop.report(*names, **promises))


def failures_of(shop: Shop, report: dict[str, Any]) -> tuple[Failure, ...]:
    with pytest.raises(ProofFailed) as caught:
        prove(shop.place.root, report, shop.arch, Progress(quiet=True))
    return caught.value.failures


@dataclass(frozen=True)
class Fault:
    """A module that cannot be imported in the jail, and its control, which can."""

    code: str
    harmless: str
    why: str
    hint: str


FAULTS = {
    "write": Fault(
        "open('/packages/cache', 'w')",
        "import os\nopen(os.environ['TMPDIR'] + '/cache', 'w').close()",
        "OSError: [Errno 30] Read-only file system: '/packages/cache'",
        "only the folder in $TMPDIR can be written: point it there, where jail: {env: ...} can",
    ),
    "threads": Fault(
        "import threading, time\nfor _ in range(100):"
        " threading.Thread(target=time.sleep, args=(5,), daemon=True).start()",
        "import threading, time\nfor _ in range(20):"
        " threading.Thread(target=time.sleep, args=(5,), daemon=True).start()",
        "RuntimeError: can't start new thread",
        "limits: {processes: 128, memory: 8GiB}",
    ),
    "memory": Fault(
        "import mmap\nmmap.mmap(-1, 5 << 30)",
        "import mmap\nmmap.mmap(-1, 1 << 30)",
        "OSError: [Errno 12] Cannot allocate memory",
        "limits: {memory: 8GiB}",
    ),
    "cpu": Fault(
        "while True: pass",
        "for _ in range(1000): pass",
        "it was killed (SIGKILL), as the limit of 2 s of CPU does",
        "limits: {cpu_s: 4}",
    ),
    "segv": Fault(
        "import ctypes\nctypes.string_at(1)",
        "import ctypes\nctypes.string_at(b'')",
        "the interpreter crashed, killed by SIGSEGV",
        "",
    ),
    "abort": Fault("import os\nos.abort()", "import os", "the interpreter crashed, killed by SIGABRT", ""),
    "exit0": Fault(
        "import os\nos._exit(0)",
        "import atexit, os\natexit.register(os._exit, 0)",
        "it ended the interpreter with exit code 0",
        "",
    ),
    "sysexit": Fault(
        "import sys\nsys.exit()",
        "import sys\ntry: sys.exit()\nexcept SystemExit: pass",
        "it ends the program when it is imported (SystemExit)",
        "",
    ),
    "atexit": Fault(
        "import atexit, os\natexit.register(os._exit, 3)",
        "import atexit\natexit.register(print, 'x' * 100_000)",
        "it ended the interpreter with exit code 3 after the import",
        "",
    ),
    "output": Fault(
        "print('x' * 11_000_000)",
        "print('x' * 10_000_000)",
        "it printed more than limits.output, which is 10MiB",
        "limits: {output: 20MiB}",
    ),
    "socket": Fault(
        "import socket\nsocket.socket()",
        "import socket\ntry: socket.socket()\nexcept PermissionError: pass",
        "PermissionError: [Errno 1] Operation not permitted; denied: socket",
        "enable_network: true",
    ),
    "dependency": Fault(
        "import absent.part",
        "try: import absent.part\nexcept ImportError: pass",
        "ModuleNotFoundError: No module named 'absent'",
        "add absent to dependencies, or the package that has it",
    ),
    "standard": Fault(
        "import tkinter",
        "import json",
        "ModuleNotFoundError: No module named 'tkinter'",
        "tkinter is of Python's own library, which the jail has without it",
    ),
    "wrapped": Fault(
        "try: import absent\nexcept ImportError as error: raise RuntimeError('read the manual') from error",
        "try: import absent\nexcept ImportError as error: pass",
        "ModuleNotFoundError: No module named 'absent'",
        "add absent to dependencies, or the package that has it",
    ),
    "words": Fault(
        "raise ValueError('\\x1b[31mred\\nerror: forged')",
        "print('\\x1b[31mred\\nerror: forged')",
        "ValueError: \\x1b[31mred",
        "",
    ),
    "pruned": Fault(
        "import good_write.tests",
        "import good_write",
        "ModuleNotFoundError: No module named 'good_write.tests'; 'good_write' is not a package",
        "good_write.tests is left out of the jail: keep_whole: [good-write]",
    ),
}


def test_every_control_passes(shop: Shop) -> None:
    """All at once, in parallel; what was denied on the way is told."""
    proof = shop.prove(*(f"good-{name}" for name in (*FAULTS, "library")))
    assert proof.how == "jail"
    assert {one.name for one in proof.imports} == {f"good_{name}" for name in (*FAULTS, "library")}
    assert [(one.name, one.denied) for one in proof.imports if one.denied] == [("good_socket", 1)]
    assert "went on without denied system calls: good_socket (1)" in proof.lines()


def test_every_fault_is_told_with_what_mends_it(shop: Shop) -> None:
    """All of them together, whatever each does to its interpreter."""
    found = failures(shop, *(f"bad-{name}" for name in FAULTS), "good-write")
    told = {one.what: (one.why, one.hint) for one in found}
    expected = {}
    for name, fault in FAULTS.items():
        hint = (f"{fault.hint}; or " if fault.hint else "") + f"leave it out: verify: {{skip: [bad_{name}]}}"
        expected[f"import bad_{name} (bad-{name} 1.0)"] = (fault.why, hint)
    assert told == expected


@pytest.mark.parametrize("name", ["threads", "memory", "cpu", "output", "socket"])
def test_what_the_jail_refuses_works_outside_of_it(shop: Shop, name: str) -> None:
    """The control: the same module, in the same tree, with no limit and no policy. One never ends."""
    ended = shop.place.control(f"import bad_{name}", timeout_s=3)
    assert ended.exit_code == (124 if name == "cpu" else 0), ended.stderr


def test_a_missing_library_is_named(shop: Shop) -> None:
    """An extension module whose library is not in the jail."""
    (one,) = failures(shop, "bad-library", "good-library")
    assert one.what == "import bad_library (bad-library 1.0)"
    assert one.why == (
        "ImportError: libxz9.so.1.0: cannot open shared object file: No such file or directory"
    )
    assert one.hint == (
        "libxz9.so.1.0 is not in the jail: name the Debian package that has it in base_packages; "
        "or leave it out: verify: {skip: [bad_library]}"
    )


def test_an_import_that_hangs_is_ended(shop: Shop) -> None:
    """After verify.timeout_s, and no other import waits for it; so is one whose thread never ends."""
    shop.add("hang", {"hang.py": "import time\ntime.sleep(3600)\n"})
    shop.add(
        "late",
        {"late.py": "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()"},
    )
    started = time.monotonic()
    found = failures(shop, "hang", "late", "good-abort", timeout_s=0.7)
    assert time.monotonic() - started < 3
    assert [one.why for one in found] == [
        "it did not end within 0.7 s",
        "it did not end within 0.7 s after the import",
    ]
    assert found[0].hint == "verify: {timeout_s: 1.4}; or leave it out: verify: {skip: [hang]}"


def test_imports_run_at_the_same_time(shop: Shop) -> None:
    """Each with a user of its own: threads of one do not count for the other."""
    code = (
        "import threading, time\nfor _ in range(40): threading.Thread(target=time.sleep, args=(1,)).start()\n"
    )
    for name in ("first", "second"):
        shop.add(name, {f"{name}.py": code})
    proof = shop.prove("first", "second")
    assert len(proof.imports) == 2
    assert proof.seconds < 2 or len(os.sched_getaffinity(0)) == 1


def test_a_name_is_no_program(shop: Shop) -> None:
    """Whatever a report says is imported is an argument, and stays one."""
    report = shop.report("good-abort", imports=["os; print(1)", "--help", "a\nb", "é.\udcff"])
    (one,) = report["distributions"]
    one["imports"] = ["-c", "good_abort"]
    found = failures_of(shop, report)
    assert [failure.why.split(":")[0] for failure in found] == ["ModuleNotFoundError"] * 5


def test_snippets(shop: Shop) -> None:
    """Output is compared byte by byte where it is given; a difference is shown."""
    shop.prove(
        snippets=[
            {"code": "print('one\\ntwo')", "output": "one\ntwo\n"},
            {"code": "print('anything')", "output": None},
            {"code": "import sys; sys.stdout.write('é' * 20000)", "output": "é" * 20000},
            {"code": "print(__name__, __import__('sys').argv)", "output": "__main__ ['-']\n"},
        ]
    )
    found = failures(
        shop,
        snippets=[
            {"code": "print('one\\n\\x1b[2Jtwo')", "output": "one\nthree\n"},
            {"code": "print('one')", "output": "one"},
            {"code": "import absent", "output": None},
            {"code": "1 / 0", "output": None},
            {"code": "import os; os._exit(7)", "output": None},
            {"code": "held = bytearray(5 << 30)", "output": None},
            {"code": "import sys; sys.stdout.write('é' * 20001)", "output": "é" * 20000},
            {"code": "def", "output": None},
        ],
    )
    leave = "mend the snippet, or take it out of verify.snippets"
    assert [(one.what, one.why, one.hint) for one in found[:6]] == [
        (
            "verify.snippets[0]",
            "it printed something else:\n--- expected\n+++ printed\n"
            "@@ -1,2 +1,2 @@\n one\n-three\n+\\x1b[2Jtwo",
            leave,
        ),
        ("verify.snippets[1]", "it printed something else:\n-'one'\n+'one\\n'", leave),
        (
            "verify.snippets[2]",
            "ModuleNotFoundError: No module named 'absent'",
            f"add absent to dependencies, or the package that has it; or {leave}",
        ),
        ("verify.snippets[3]", "ZeroDivisionError: division by zero", leave),
        ("verify.snippets[4]", "it ended the interpreter with exit code 7", leave),
        ("verify.snippets[5]", "MemoryError", f"limits: {{memory: 8GiB}}; or {leave}"),
    ]
    assert [one.why.split(":")[0] for one in found[6:]] == ["it printed something else", "SyntaxError"]


def test_verify_imports_and_skip(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """What is asked for besides is imported; what is skipped, by module or package, is not."""
    proof = shop.prove(
        *("bad-abort", "bad-exit0", "good-abort"),
        imports=["json.tool"],
        skip=["bad_abort", "Bad.Exit0", "nonsense"],
    )
    assert [(one.name, one.distribution) for one in proof.imports] == [
        ("good_abort", "good-abort"),
        ("json.tool", None),
    ]
    assert proof.skipped == ("bad_abort", "bad_exit0")
    assert "verify.skip: nonsense is no package and no module" in capsys.readouterr().err
    (one,) = failures(shop, imports=["json.absent"])
    assert (one.what, one.hint.split(";")[0]) == (
        "import json.absent (verify.imports)",
        "add the package that has json.absent to dependencies",
    )


def test_a_jail_without_python_is_the_first_failure(shop: Shop, tmp_path: Path) -> None:
    """Nothing else is tried."""
    other = Shop(type(shop.place).copy(shop.place.root, tmp_path / "root"), host_arch())
    loader = other.place.tree / "usr/bin" / Path(other.place.settings["python"]).name
    loader.unlink()
    loader.write_bytes(b"#!/nowhere\n")
    loader.chmod(0o755)
    with pytest.raises(VerificationFailed) as caught:
        other.prove("good-abort")
    assert not isinstance(caught.value, ProofFailed)
    shutil.rmtree(other.place.root)


def test_an_interrupted_proof_leaves_nothing_running(shop: Shop) -> None:
    """Ctrl-C ends every run at once."""
    shop.add("sleeps", {"sleeps.py": "import time\ntime.sleep(3600)\n"})
    threads = threading.active_count()
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        shop.prove("sleeps")
    assert time.monotonic() - started < 3
    # A process that was killed takes a moment to be gone.
    ours = ["pgrep", "-f", f"root={shop.place.root}"]
    until = time.monotonic() + 2
    while subprocess.run(ours, capture_output=True).stdout or threading.active_count() > threads:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_run_can_be_cancelled(root: Path) -> None:
    """The control runs to its end."""
    read, write = os.pipe()
    with os.fdopen(read, "rb"), os.fdopen(write, "wb", buffering=0) as ending:
        code = ["-c", "import time; time.sleep(0.2)"]
        assert jailrun.run(root, code, stdin=subprocess.DEVNULL, cancel=read).exit_code == 0
        ending.write(b"x")
        outcome = jailrun.run(root, code, stdin=subprocess.DEVNULL, cancel=read)
        assert (outcome.stopped, outcome.exit_code) == ("cancelled", 130)
