"""Narration: what a stranger's words may do to a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from builder.errors import BuildError, printable, printable_lines
from builder.main import main
from builder.progress import Progress

HOSTILE = "a[/b]\x1b]0;title\x07\u202e"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_strangers_words_are_shown_and_not_obeyed(terminal: bool) -> None:
    """Neither markup nor control sequences, in a step's title, its detail, a note and a warning."""
    progress = Progress(verbose=True)
    written = io.StringIO()
    progress.console = Console(file=written, force_terminal=terminal, width=200, color_system=None)
    with progress.step(HOSTILE):
        progress.detail(HOSTILE)
    progress.note(f"{HOSTILE}\nnext")
    progress.warn(HOSTILE)
    text = written.getvalue()
    assert "a[/b]" in text
    assert "\x1b]0;" not in text
    assert "\u202e" not in text
    assert "\nnext" in text


def test_an_errors_words_are_escaped_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of ours stay lines; what a stranger put into them is escaped."""

    def fail(*_: object, **__: object) -> None:
        raise BuildError(f"first {HOSTILE}\nsecond", HOSTILE)

    monkeypatch.setattr("builder.main.commands.main", fail)
    with pytest.raises(SystemExit):
        main([])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: first {printable(HOSTILE)}"
    assert lines[1:] == ["second", f"hint: {printable(HOSTILE)}"]


def test_printable() -> None:
    """What is not printable is escaped, bytes that are not UTF-8 too; newlines only in a single line."""
    assert printable("\u00e9\n\udc80\u202e") == "\u00e9\\n\\x80\\u202e"
    assert printable_lines("a\n\tb") == "a\n\\tb"
