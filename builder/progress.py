"""Narration of a build on stderr: live lines where a person waits, plain lines where none does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from builder.errors import printable, printable_lines


@dataclass
class _Lane:
    """What one of several things that are done at once is at."""

    title: str = ""
    detail: str = ""
    started: float = 0.0

    def shown(self, name: str) -> str:
        where = ": ".join(filter(None, (self.title, self.detail)))
        return _named(name, where or "done")


class Progress:
    """Says what is being done, on stderr.

    `step` is one thing that takes time; `detail` is where it is right now (shown on a terminal only, or with
    verbose); `note` and `warn` stay on the screen. NO_COLOR and non-terminals are honoured by rich.
    """

    def __init__(self, *, verbose: bool = False, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.verbose = verbose
        self.quiet = quiet
        self._lanes: Lanes | None = None

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announces `title`, and how long it took once it is done."""
        with self.lanes([""]) as lanes:
            self._lanes = lanes
            lanes.hear("", "begin", title)
            try:
                yield
            finally:
                lanes.hear("", "end", "")
                self._lanes = None

    @contextmanager
    def lanes(self, names: Sequence[str]) -> Iterator[Lanes]:
        """A line for each of several things that are done at once, by their names."""
        lanes = Lanes(self, names)
        if self.quiet or not self.console.is_terminal:
            yield lanes
            return
        with Live(get_renderable=lanes.render, console=self.console, transient=True, refresh_per_second=8):
            yield lanes

    def detail(self, text: str) -> None:
        """Where the current step is; may be called thousands of times a second."""
        if self._lanes is not None:
            self._lanes.hear("", "detail", text)
        elif self.verbose:
            self.show("<", text)

    def note(self, text: str) -> None:
        """Something worth knowing."""
        if not self.quiet:
            self.show(" ", text)

    def command(self, text: str) -> None:
        """An echoed command; shown with verbose."""
        if self.verbose:
            self.show("", text)

    def warn(self, text: str) -> None:
        """Something that the user should look at; never silenced."""
        self.console.print(printable_lines(f"warning: {text}"), markup=False, style="yellow")

    def show(self, mark: str, text: str) -> None:
        """A line that stays."""
        text = printable_lines(text)
        self.console.print(f"{mark} {text}".strip() if mark != " " else f"  {text}", markup=False)


class Lanes:
    """Several things that are done at once: each tells of itself, and has one line on a terminal."""

    def __init__(self, progress: Progress, names: Sequence[str]) -> None:
        self._progress = progress
        self._lanes = {name: _Lane() for name in names}
        self._spinner = Spinner("dots")

    def hear(self, name: str, what: str, text: str) -> None:
        """News of one of them: `begin` or `end` of a step, a `detail`, `note`, `command` or `warn`."""
        progress, lane = self._progress, self._lanes[name]
        terminal = progress.console.is_terminal
        if what == "begin":
            self._lanes[name] = _Lane(text, started=time.monotonic())
            if not terminal and not progress.quiet:
                progress.show("*", _named(name, text))
        elif what == "end":
            self._lanes[name] = _Lane()
            if terminal and not progress.quiet:
                progress.show("*", _named(name, f"{lane.title} ({time.monotonic() - lane.started:.1f} s)"))
        elif what == "detail":
            lane.detail = text
            if progress.verbose:
                progress.show("<", _named(name, text))
        else:
            tell = {"note": progress.note, "command": progress.command, "warn": progress.warn}[what]
            tell(_named(name, text))

    def leave(self, name: str) -> None:
        """One of them is over, and needs no line any more."""
        del self._lanes[name]

    def render(self) -> Group:
        """The lines as they are now."""
        width = self._progress.console.width - 2
        frame = self._spinner.render(time.monotonic())
        lines = (printable(lane.shown(name))[:width] for name, lane in list(self._lanes.items()))
        return Group(*(Text.assemble(str(frame), " ", line) for line in lines))


def _named(name: str, text: str) -> str:
    """`text`, which says in any case what it is about."""
    return text if name in text else f"{name}: {text}"
