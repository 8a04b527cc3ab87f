"""The code is an ordinary `__main__`: it prints and ends as under the same interpreter without a jail."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest

from builder import jailrun
from builder.tree.spec import TREE_PATH
from tests.conftest import interpreter

MAX_CODE_BYTES = 16 * 1024 * 1024
STDIN = b"one\ntwo"
ARGUMENTS = ("a", "-c", "", "gr\xfcn")


@dataclass(frozen=True)
class Ended:
    """How a program ended. `exit_code` is a shell's: 128 + N for signal N."""

    exit_code: int
    stdout: str
    stderr: str


def temporary(content: bytes) -> BinaryIO:
    """An open file that holds `content`."""
    file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the caller
    file.write(content)
    file.seek(0)
    return file


def in_jail(root: Path, code: bytes, *arguments: str, channel: str = "file", stdin: bytes = STDIN) -> Ended:
    """Runs `code`, which comes as a file, on stdin, or as an argument."""
    out, err = io.BytesIO(), io.BytesIO()
    with temporary(code) as script, temporary(stdin) as own:
        if channel == "file":
            outcome = jailrun.run(
                root, arguments, code=script, stdin=own, stdout=out, stderr=err, timeout_s=30
            )
        else:
            options = ["-c", code.decode()] if channel == "argument" else ["-"]
            source = own if channel == "argument" else script
            outcome = jailrun.run(
                root, [*options, *arguments], stdin=source, stdout=out, stderr=err, timeout_s=30
            )
    return Ended(outcome.exit_code, text(out.getvalue()), text(err.getvalue()))


def outside(root: Path, code: bytes, *arguments: str) -> Ended:
    """The control: `python3 script.py` of the same interpreter, in the same tree, without any lock-down."""
    tree = root / TREE_PATH.lstrip("/")
    script = tree / "tmp/main.py"  # a run in the jail has another /tmp mounted there
    script.write_bytes(code)
    chroot = shutil.which("chroot", path="/usr/sbin:/sbin:/usr/bin")
    try:
        done = subprocess.run(
            [str(chroot), str(tree), *interpreter(root), "-B", "-P", "/tmp/main.py", *arguments],
            input=STDIN,
            capture_output=True,
            env={"LANG": "C.UTF-8", "HOME": "/tmp", "PATH": "/usr/local/bin:/usr/bin:/bin"},
            timeout=30,
            check=False,
        )
    finally:
        script.unlink()
    code_ = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return Ended(
        code_,
        *(text(output).replace("/tmp/main.py", "main.py") for output in (done.stdout, done.stderr)),
    )


def text(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape")


RAISES = "def f():\n    raise ValueError('x')\n\n"
LATE = (
    "import threading, time, sys\nthreading.Thread(target=lambda: (time.sleep(.2), print('late'))).start()\n"
)
DEFINES = "def f():\n    # comment\n    return 1\nclass A:\n    x = 1\nimport inspect\n"

SAME: dict[str, str | bytes] = {
    # Uncaught exceptions
    "traceback": "print(1)\n1/0\n",
    "several-lines": "\n\ndef f(\n  x,\n):\n  return (x\n     / 0)\nf(\n  1\n)\n",
    "cause": RAISES + "try:\n    f()\nexcept ValueError as e:\n    raise KeyError('k') from e\n",
    "context": RAISES + "try:\n    f()\nexcept ValueError as e:\n    {}['k']\n",
    "thread": RAISES + "import threading\nt = threading.Thread(target=f, name='T')\nt.start(); t.join()\n",
    "pool": RAISES + "from concurrent.futures import ThreadPoolExecutor as T\nT().submit(f).result()\n",
    "coroutine": "import asyncio\nasync def m():\n    await asyncio.sleep(0)\n    1/0\nasyncio.run(m())\n",
    "group": "raise ExceptionGroup('g', [ValueError(1), TypeError(2)])\n",
    "note": "e = ValueError('x'); e.add_note('note'); raise e\n",
    "suggestion": "class A: foo = 1\nA().fooo\n",
    "library-frames": "import json\njson.loads('{')\n",
    "eval": "eval('1/0')\n",
    "exec": "exec('def g():\\n 1/0\\ng()')\n",
    "broken-str": "class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E\n",
    "assert": "assert 1 == 2, 'no'\n",
    "printed": RAISES + "import traceback\ntry: f()\nexcept ValueError: traceback.print_exc()\n",
    "logged": RAISES + "import logging\ntry: f()\nexcept ValueError: logging.exception('e')\n",
    # Code that is no Python
    "unclosed": "x = (1\nprint(\n",
    "not-python": "x = 1\nx = = 2\n",
    "indented": "a = 1\n  b = 2\n",
    "not-indented": "if 1:\nb = 2\n",
    "tabs": "if 1:\n\tb = 2\n        c = 3\n",
    "future": "from __future__ import braces\n",
    "return": "\nreturn 1\n",
    # What the bytes of the code are
    "empty": "",
    "comment": "# nothing",
    "crlf": "print(1)\r\nprint(repr('''a\r\nb'''))\r\n1/0\r\n",
    "cr": "print(1)\rprint(2)\r1/0\r",
    "cookie": "# -*- coding: latin-1 -*-\nprint('gr\xfcn')\nraise ValueError('gr\xfcn')\n".encode("latin-1"),
    "bom": "\ufeffprint('bom')\nraise ValueError('gr\xfcn')\n",
    "unicode": "raise ValueError('gr\xfcn \u20ac \U0001f600')\n",
    "form-feed": "x = 1\n\f\ndef f():\n    1/0\nf()\n",
    "line-separator": "x = '\u2028'\n1/0\n",
    # How it ends
    "exit-none": "import sys\nsys.exit(None)",
    "exit-text": "import sys\nsys.exit('bye')",
    "exit-object": "import sys\nsys.exit((1, 2))",
    "exit-minus": "import sys\nsys.exit(-1)",
    "exit-300": "import sys\nsys.exit(300)",
    "exit-true": "import sys\nsys.exit(True)",
    "exit-huge": "import sys\nsys.exit(2**70)",
    "exit-207": "import sys\nsys.exit(207)",
    "exit-224": "import sys\nsys.exit(224)",
    "exit-subclass": "class E(SystemExit): pass\nraise E(4)\n",
    "exit-in-thread": "import sys, threading\nthreading.Thread(target=sys.exit, args=(3,)).start()\n",
    "exit": "exit()",
    "quit": "quit(3)",
    "interrupt": "raise KeyboardInterrupt('x')\n",
    "interrupt-main": "import _thread, time\n_thread.interrupt_main()\ntime.sleep(1)\n",
    "os-exit": "import os\nprint('lost')\nos._exit(7)",
    "os-exit-flushed": "import os\nprint('kept', flush=True)\nos._exit(7)",
    "abort": "import os\nos.abort()\n",
    "alarm": "import signal, time\nsignal.alarm(1)\ntime.sleep(3)\n",
    "segfault": "import ctypes\nctypes.string_at(0)\n",
    "hook": "import sys\nsys.excepthook = lambda t, v, tb: print(v, tb.tb_lineno, tb.tb_next)\n\n1/0\n",
    "hook-raises": "import sys\ndef hook(*a): raise RuntimeError('in hook')\nsys.excepthook = hook\n1/0\n",
    "hook-exits": "import sys\ndef hook(t, v, tb): sys.exit(9)\nsys.excepthook = hook\n1/0\n",
    "hook-none": "import sys\nsys.excepthook = None\n1/0\n",
    "no-stderr": "import sys\nsys.stderr = None\n1/0\n",
    "stdout-closed": "import sys\nsys.stdout.close()\n",
    "atexit": "import atexit\natexit.register(print, 'bye')\n1/0\n",
    "del-at-exit": "class A:\n    def __del__(self): print('del')\na = A()\n",
    "thread-at-exit": LATE + "print('main done')\n",
    "thread-at-error": LATE + "1/0\n",
    "thread-at-sys-exit": LATE + "sys.exit(3)\n",
    "daemon-thread": LATE.replace("(target", "(daemon=True, target").replace(".2", "9") + "print('done')\n",
    # What it is
    "main": "if __name__ == '__main__': print(__name__, __doc__, __package__, __spec__, __builtins__)\n",
    "docstring": "'doc'\nprint(__doc__)\n",
    "import-main": "import __main__\nx = 1\nprint(__main__.x, vars(__main__) is globals())\n",
    "no-future": "def f(x: print('evaluated')): pass\n",
    "arguments": "import sys\nprint(sys.argv[1:])\n",
    "input": "print(input('name? ')); print(input()); input()\n",
    "stdin": "import sys\nprint(repr(sys.stdin.read()), sys.stdin.buffer.read())\n",
    "stdin-lines": "import sys\nfor line in sys.stdin: print(repr(line))\n",
    "no-newline": "import sys\nsys.stderr.write('err')\nsys.stdout.write('out')\n",
    "surrogate": "print('\\udc80')\n",
    "encodings": "import sys\nfor f in (sys.stdin, sys.stdout, sys.stderr): print(f.encoding, f.errors)\n",
    # What libraries find
    "dataclass": "import dataclasses as d\n@d.dataclass\nclass P:\n    x: int\n    y: 'P' = 2\nprint(P(1))\n",
    "pickle": "import pickle\nclass A: x = 1\nprint(pickle.loads(pickle.dumps(A)) is A, A.__module__, A)\n",
    "enum": "import enum\nclass C(enum.Enum):\n    A = 1\nprint(repr(C['A']))\n",
    "type-hints": "import typing\nclass N(typing.NamedTuple):\n    x: 'N'\nprint(typing.get_type_hints(N))\n",
    "getsource": DEFINES + "print(inspect.getsourcelines(f))\n",
    "getsource-class": DEFINES + "print(inspect.getsourcelines(A))\n",
    "unittest": "import unittest as u\nclass T(u.TestCase): test_a = print\n"
    "print(u.defaultTestLoader.loadTestsFromName('__main__'))\n",
    "doctest": "def f():\n    '''\n    >>> f()\n    1\n    '''\nimport doctest\nprint(doctest.testmod())\n",
    "asyncio": "import asyncio\nasync def m(): print(await asyncio.to_thread(abs, -1))\nasyncio.run(m())\n",
    "executor": "import concurrent.futures as c\nprint([*c.ThreadPoolExecutor(4).map(abs, range(-4, 4))])\n",
    "native-modules": "import ctypes, ssl, sqlite3, lzma, bz2, zlib, decimal\n"
    "print(sqlite3.connect(':memory:').execute('select 1').fetchall(), ctypes.sizeof(ctypes.c_int))\n",
    "certificates": "import ssl\nprint(len(ssl.create_default_context().get_ca_certs()) > 10)\n",
    "time-zones": "import zoneinfo\nprint(zoneinfo.ZoneInfo('Europe/Berlin').key)\n",
    "scratch": "import tempfile\nwith tempfile.TemporaryFile() as f: print(f.write(b'1'))\n",
    "handled-signal": "import signal as s, time\n"
    "s.signal(14, lambda *a: print(a[0]))\ns.alarm(1)\ntime.sleep(2)\n",
}


@pytest.mark.parametrize("name", SAME)
def test_like_a_script(name: str, root: Path) -> None:
    """stdout, stderr and exit code are those of `python3 script.py` outside, but for the script's path."""
    given = SAME[name]
    code = given.encode() if isinstance(given, str) else given
    assert in_jail(root, code, *ARGUMENTS) == outside(root, code, *ARGUMENTS)


# Where the jail differs on purpose, or as `exec` differs from a file: exit code, stderr (a pattern).
DIFFERENT: dict[str, tuple[bytes, int, str]] = {
    "not-utf-8": (
        "print('gr\xfcn')\n".encode("latin-1"),
        1,
        r'  File "main.py", line 1\n(.|\n)*SyntaxError: .*utf-8',
    ),
    "null-byte": (b"print(1)\0\n", 1, r"(.|\n)*Error: source code .*null bytes"),
    "unknown-cookie": (b"# coding: nonsense\nprint(1)\n", 1, r"(.|\n)*SyntaxError: .*nonsense"),
    # No file of this name can be opened: what looks for one has the line's number and not its text.
    "warning": (b"import warnings\nwarnings.warn('w')\n", 0, r"main.py:2: UserWarning: w\n"),
    "reserved-exit": (b"import sys\nsys.exit(210)", 1, r"sandbox: exit code 210 is the sandbox's own"),
    "reserved-exit-256": (b"import sys\nsys.exit(466)", 1, r"sandbox: exit code 466 is the sandbox's own"),
    "reserved-os-exit": (b"import os\nos._exit(210)", 139, r"sandbox: denied exit_group .*\n$"),
    "signal": (
        b"import signal\nsignal.raise_signal(15)",
        1,
        r"sandbox: denied tgkill .*\nTraceback(.|\n)*PermissionError",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_unlike_a_script(name: str, root: Path) -> None:
    """What is not as outside is still what we say that it is."""
    code, exit_code, pattern = DIFFERENT[name]
    ended = in_jail(root, code)
    assert (ended.exit_code, ended.stdout) == (exit_code, "")
    assert re.match(pattern, ended.stderr), ended.stderr


@pytest.mark.parametrize(
    ("channel", "first", "stdin"),
    [("file", "-", "one\ntwo"), ("stdin", "-", ""), ("argument", "-c", "one\ntwo")],
)
def test_channels(channel: str, first: str, stdin: str, root: Path) -> None:
    """However the code comes, it has its arguments, its source lines, and a stdin: its own or none."""
    code = b"import sys\nprint([sys.argv, sys.stdin.read()])\n1/0\n"
    ended = in_jail(root, code, *ARGUMENTS, channel=channel)
    assert ended.stdout == f"{[[first, *ARGUMENTS], stdin]}\n"
    assert ended.stderr.endswith(
        '  File "main.py", line 3, in <module>\n    1/0\n    ~^~\nZeroDivisionError: division by zero\n'
    )
    assert ended.exit_code == 1


@pytest.mark.parametrize("channel", ["file", "stdin"])
@pytest.mark.parametrize(("more", "exit_code"), [(0, 0), (1, 210)])
def test_large_code(channel: str, more: int, exit_code: int, root: Path) -> None:
    """Code of 16 MiB runs; with one byte more, nothing is run, and the exit code says so."""
    start = b"print('ran')\n#"
    ended = in_jail(root, start.ljust(MAX_CODE_BYTES + more, b"x"), channel=channel)
    assert (ended.exit_code, ended.stdout) == (exit_code, "" if more else "ran\n")
    assert ended.stderr.startswith("sandbox: error: the code is larger than" if more else "")


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "de_DE.ISO-8859-1", "PYTHONIOENCODING": "latin-1"},
    ],
    ids=lambda environment: environment["LC_ALL"],
)
def test_locale(environment: dict[str, str], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code, arguments and streams are UTF-8 whatever the caller's locale is."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = (
        "import sys\nprint('\u20ac', ascii(input()), ascii(sys.argv[1]), file=sys.stderr)\nprint('\u20ac')\n"
    )
    for channel in ("file", "argument"):
        ended = in_jail(root, code.encode(), "\u20ac", channel=channel, stdin="\u20ac\n".encode())
        assert ended == Ended(0, "\u20ac\n", "\u20ac '\\u20ac' '\\u20ac'\n")


@pytest.fixture(scope="module")
def found(root: Path) -> Callable[[str], object]:
    """What an expression comes to in the jail. All of them are asked in one run."""
    expressions = (
        "dict(os.environ)",
        "sys.path",
        "sorted(sys.modules)",
        "[sys.flags.optimize, sys.flags.dev_mode, sys.flags.utf8_mode, sys.flags.inspect, sys.flags.verbose]",
        "os.getcwd()",
        "sys.orig_argv",
        "sys.executable",
        "sorted(name for name in os.listdir('/dev/fd/')) if os.path.exists('/dev/fd') else []",
        "threading.active_count()",
        "[sys.gettrace(), sys.getprofile(), sys.exc_info()[0], sys.getrecursionlimit()]",
    )
    code = f"import json, os, sys, threading\nprint(json.dumps({{e: eval(e) for e in {expressions}}}))\n"
    ended = in_jail(root, code.encode())
    assert (ended.exit_code, ended.stderr) == (0, "")
    values: dict[str, object] = json.loads(ended.stdout)
    return values.__getitem__


def test_environment(found: Callable[[str], object], root: Path) -> None:
    """The environment is what the config says, with the scratch as home, and nothing of the caller's."""
    environment = found("dict(os.environ)")
    assert isinstance(environment, dict)
    scratch = environment["TMPDIR"]
    assert re.fullmatch(r"/tmp/run-\d+", scratch)
    configured = json.loads((root / "sandbox/runtime.json").read_bytes())["env"]
    assert environment == configured | dict.fromkeys(("TMPDIR", "HOME", "MPLCONFIGDIR"), scratch)


def test_environment_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that the config keeps is the caller's, and reaches the C library too."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("SECRET", "x")
    ended = in_jail(
        root, b"import os, time\nprint(os.environ['TZ'], 'SECRET' in os.environ, time.localtime().tm_zone)"
    )
    assert ended.stdout == "Asia/Tokyo False JST\n"


def test_interpreter_state(found: Callable[[str], object], root: Path) -> None:
    """The interpreter is as after any start: the image's sys.path, no tracing, no module of the runtime."""
    settings = json.loads((root / "sandbox/runtime.json").read_bytes())
    assert found("sys.path") == settings["sys_path"]
    assert all(path.startswith("/usr/") for path in settings["sys_path"])
    modules = found("sorted(sys.modules)")
    assert isinstance(modules, list)
    assert not [name for name in modules if name.split(".")[0] in ("runtime", "sandbox", "entrypoint")]
    assert found(
        "[sys.flags.optimize, sys.flags.dev_mode, sys.flags.utf8_mode, sys.flags.inspect, sys.flags.verbose]"
    ) == [*(0, False, 1, 0, 0)]
    assert found("[sys.gettrace(), sys.getprofile(), sys.exc_info()[0], sys.getrecursionlimit()]") == [
        None,
        None,
        None,
        1000,
    ]
    assert found("threading.active_count()") == 1
    assert found("os.getcwd()") == "/"
    assert found("sys.executable") == settings["python"]
    assert found("sys.orig_argv") == [settings["python"], "-"]
