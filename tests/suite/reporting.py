"""Runs inside the jail: one of CPython's test modules, with what became of each test as lines of JSON.

The module's name is the one argument. Each line goes out at once, by one write: what ends the process does
not take earlier lines with it, and forked children hold no copy of a buffer.
"""

import json
import os
import signal
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

REPORT = os.dup(1)
"""The tests play with stdout."""


OWNER = os.getpid()


def say(**fact: object) -> None:
    """One fact, as one line. A test's child that went on where it should have ended, ends here."""
    if os.getpid() != OWNER:
        os._exit(1)
    os.write(REPORT, (json.dumps(fact) + "\n").encode())


class Report(unittest.TestResult):
    """Says what becomes of each test; a test fails as often as subtests of it do."""

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        say(started=test.id())

    def addSuccess(self, test: unittest.TestCase) -> None:
        say(passed=test.id())

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        say(skipped=test.id(), why=reason)

    def addExpectedFailure(self, test: unittest.TestCase, _: Any) -> None:
        say(passed=test.id())

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        say(failed=test.id(), why="unexpected success")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self._failed(test.id(), err)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self._failed(test.id(), err)

    def addSubTest(self, test: unittest.TestCase, _: unittest.TestCase, err: Any) -> None:
        if err is not None:
            self._failed(test.id(), err)

    def _failed(self, name: str, err: Any) -> None:
        say(failed=name, why=self._exc_info_to_string(err, unittest.TestCase())[-1500:])  # type: ignore[attr-defined]


def main(module: str) -> None:
    """Runs `module`, as test_json, from the scratch folder."""
    os.chdir(tempfile.gettempdir())
    Path("null").touch()  # what the tree's /dev/null is a link to
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    globals().pop("__file__", None)  # main.py is no file, and multiprocessing's children would import it
    sys.argv = [f"/usr/lib/python3.13/test/{module}.py"]
    from test import support  # type: ignore[import-not-found]  # Debian has it in a package of its own

    # As regrtest does without -u: nothing that takes minutes, a network, a screen.
    support.use_resources = []
    suite = unittest.defaultTestLoader.loadTestsFromName(f"test.{module}")
    suite.run(Report())
    say(ended=module)


if __name__ == "__main__":
    main(sys.argv[1])
