"""The user's code as an ordinary `__main__`. Everything here happens after the lock-down, in the jail."""

import atexit
import builtins
import gc
import posix
import sys
from _weakref import ref

from runtime import failure

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import NoReturn

FILE_NAME = "main.py"
"""What tracebacks call the code. Not "<stdin>": `linecache` asks no loader for a name in angle brackets."""

UNWRITABLE = 120
"""What the interpreter ends with where stdout could not be written: Py_FinalizeEx."""

# `linecache` splits a loader's text with str.splitlines, which takes these for line ends; Python does not.
NO_LINE_ENDS = dict.fromkeys(map(ord, "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), " ")


class SourceLoader:
    """Gives the code's own source to `linecache` and `inspect`, and so to every traceback, when they ask."""

    def __init__(self, code: bytes) -> None:
        self._code = code

    def get_source(self, _name: str) -> str:
        from tokenize import detect_encoding

        lines = iter(self._code.splitlines(keepends=True))
        encoding, _ = detect_encoding(lambda: next(lines, b""))
        return self._code.decode(encoding, "replace").translate(NO_LINE_ENDS)


def execute(code: bytes, argv: list[str], sys_path: list[str]) -> None:
    """Runs `code`, Python source, as `__main__`, and lets the interpreter end as it would for a script."""
    forget_runtime(sys_path)
    begin(argv)
    if status := run(code):
        sys.exit(status)


def forget_runtime(sys_path: list[str]) -> None:
    """Leaves nothing of the runtime to be imported."""
    for name in [name for name in sys.modules if name == "runtime" or name.startswith("runtime.")]:
        del sys.modules[name]
    sys.path[:] = sys_path
    sys.path_importer_cache.clear()
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # `site` adds these; it is not imported


def begin(argv: list[str]) -> None:
    """Makes a new `__main__`, and the arguments what they are for a script."""
    sys.modules["__main__"] = type(sys)("__main__")
    sys.argv[:] = argv
    sys.orig_argv[:] = [sys.executable, *argv]


def rehearse() -> None:
    """Runs a program that does nothing, all the way that a program goes.

    A forked process copies each page of its parent when it first writes to it. Those that every program
    writes to are copied here, while nobody waits.
    """
    begin(["-"])
    run(b"print(end='')\n")
    gc.collect()


def run(code: bytes, file_name: str = FILE_NAME) -> int:
    """Executes `code` in the namespace of `__main__`; the status that a script would end with."""
    namespace = vars(sys.modules["__main__"])
    namespace.update(__loader__=SourceLoader(code), __builtins__=builtins, __file__=file_name)
    try:
        exec(compile(code, file_name, "exec", dont_inherit=True), namespace)  # noqa: S102 - this is the point
    except SystemExit as stop:
        return _exit_status(stop.code)
    except BaseException as error:
        try:
            _report(error, namespace, file_name)
        except SystemExit as stop:  # of sys.excepthook
            return _exit_status(stop.code)
        except BaseException:
            # For want of memory, say, which the program may still hold.
            posix.write(2, f"{type(error).__name__}: {error}\n".encode("ascii", "backslashreplace"))
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def finish(status: int) -> "NoReturn":
    """Ends a forked process as the interpreter would end, without taking apart what it shares with others.

    Py_FinalizeEx would write to every page that the zygote's modules are on, to free what the end of the
    process frees: 1 ms, or 7 with asyncio loaded. What a script can tell is done here, in its order.
    """
    try:
        if threading := sys.modules.get("threading"):
            threading._shutdown()
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    atexit._run_exitfuncs()
    if not _flush():
        status = status or UNWRITABLE
    main = sys.modules.pop("__main__", None)
    left = ref(main) if main is not None else None
    del main
    gc.collect()
    if left is not None and (main := left()) is not None:  # something still refers to it
        vars(main).clear()  # open files are written and closed, and objects get their __del__
    if not _flush():
        status = status or UNWRITABLE
    posix._exit(status)


def _flush() -> bool:
    """Writes what the standard streams hold; False where that cannot be done."""
    done = True
    for stream in {id(one): one for one in (sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__)}.values():
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except BaseException as error:
            if stream in (sys.stdout, sys.__stdout__):
                done = False
            del error
    return done


def _exit_status(code: object) -> int:
    """What sys.exit(code) ends a process with; what is no number is written to stderr."""
    if code is None:
        return 0
    if not isinstance(code, int):
        try:  # noqa: SIM105 - contextlib would be an import
            print(code, file=sys.stderr)
        except Exception:  # noqa: S110
            pass  # nobody listens
        return 1
    if failure.is_reserved(code):
        sys.stderr.write(f"sandbox: exit code {code} is the sandbox's own (208 to 223): 1 is used\n")
        return 1
    return code & 0xFF if -(2**31) <= code < 2**31 else 0xFF


def _report(error: BaseException, namespace: dict[str, object], file_name: str) -> None:
    """What the interpreter does with an uncaught exception, without our own frames in the traceback."""
    # The first frame is ours; the code has none where it does not even compile.
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    if isinstance(error, SyntaxError) and error.text is None and error.filename == file_name:
        # The compiler looks for the line in a file.
        from linecache import getline

        error.text = getline(file_name, error.lineno or 0, namespace) or None
    hook = sys.excepthook
    if hook is sys.__excepthook__:
        _print_exception(error)
        return
    try:
        hook(type(error), error, error.__traceback__)
    except Exception as failed:
        failed.__traceback__ = failed.__traceback__ and failed.__traceback__.tb_next
        failed.__context__ = None
        print("Error in sys.excepthook:", file=sys.stderr)
        _print_exception(failed)
        print("\nOriginal exception was:", file=sys.stderr)
        _print_exception(error)


def _print_exception(error: BaseException) -> None:
    # Not sys.__excepthook__: before 3.13 it looks for source lines in files alone.
    if sys.stderr is not None:
        from traceback import print_exception

        print_exception(error)
