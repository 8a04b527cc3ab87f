"""The user's code as an ordinary `__main__`. Everything here happens after the lock-down, in the jail."""

import builtins
import sys

from runtime import failure

FILE_NAME = "main.py"
"""What tracebacks call the code. Not "<stdin>": `linecache` asks no loader for a name in angle brackets."""


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
    main = type(sys)("__main__")
    main.__dict__.update(__loader__=SourceLoader(code), __builtins__=builtins, __file__=FILE_NAME)
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # `site` adds these; it is not imported
    sys.modules["__main__"] = main
    for name in [name for name in sys.modules if name == "runtime" or name.startswith("runtime.")]:
        del sys.modules[name]
    sys.path[:] = sys_path
    sys.path_importer_cache.clear()
    sys.argv[:] = argv
    sys.orig_argv[:] = [sys.executable, *argv]
    try:
        exec(compile(code, FILE_NAME, "exec", dont_inherit=True), main.__dict__)  # noqa: S102 - this is the point
    except SystemExit as stop:
        if isinstance(stop.code, int) and failure.is_reserved(stop.code):
            sys.stderr.write(f"sandbox: exit code {stop.code} is the sandbox's own (208 to 223): 1 is used\n")
            sys.exit(1)
        raise
    except BaseException as error:
        _report(error, main.__dict__)
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 1)


def _report(error: BaseException, namespace: dict[str, object]) -> None:
    """What the interpreter does with an uncaught exception, without our own frames in the traceback."""
    # The first frame is ours; the code has none where it does not even compile.
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    if isinstance(error, SyntaxError) and error.text is None and error.filename == FILE_NAME:
        # The compiler looks for the line in a file.
        from linecache import getline

        error.text = getline(FILE_NAME, error.lineno or 0, namespace) or None
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
