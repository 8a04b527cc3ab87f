"""Narration of a build on stderr: a live line where a person waits, plain lines where none does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status
from rich.text import Text

from builder.errors import printable, printable_lines


class Progress:
    """Says what is being done, on stderr.

    `step` is one thing that takes time; `detail` is where it is right now (shown on a terminal only, or with
    verbose); `note` and `warn` stay on the screen. NO_COLOR and non-terminals are honoured by rich.
    """

    def __init__(self, *, verbose: bool = False, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.verbose = verbose
        self.quiet = quiet
        self._status: Status | None = None
        self._title = ""

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announces `title`, and how long it took once it is done."""
        started = time.monotonic()
        self._title = title
        if self.console.is_terminal and not self.quiet:
            self._status = self.console.status(Text(printable(title)))
            self._status.start()
        elif not self.quiet:
            self._print("*", title)
        try:
            yield
        finally:
            if self._status is not None:
                self._status.stop()
                self._status = None
            self._title = ""
        if self.console.is_terminal and not self.quiet:
            self._print("*", f"{title} ({time.monotonic() - started:.1f} s)")

    def detail(self, text: str) -> None:
        """Where the current step is; may be called thousands of times a second."""
        if self._status is not None:
            self._status.update(Text(printable(f"{self._title}: {text}")))
        if self.verbose:
            self._print("<", text)

    def note(self, text: str) -> None:
        """Something worth knowing."""
        if not self.quiet:
            self._print(" ", text)

    def command(self, text: str) -> None:
        """An echoed command; shown with verbose."""
        if self.verbose:
            self._print("", text)

    def warn(self, text: str) -> None:
        """Something that the user should look at; never silenced."""
        self.console.print(printable_lines(f"warning: {text}"), markup=False, style="yellow")

    def _print(self, mark: str, text: str) -> None:
        text = printable_lines(text)
        self.console.print(f"{mark} {text}".strip() if mark != " " else f"  {text}", markup=False)
