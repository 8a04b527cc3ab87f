"""What the documentation promises is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from builder.cli import commands
from runtime import failure

REPOSITORY = Path(__file__).parents[2]


def test_every_exit_code_is_documented() -> None:
    """docs/exit-codes.md has one row for each code of runtime/failure.py, and for no other."""
    table = (REPOSITORY / "docs/exit-codes.md").read_text()
    documented = [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    named = sorted(
        value for name, value in vars(failure).items() if name.isupper() and isinstance(value, int)
    )
    assert documented == named == list(failure.RESERVED)


def test_every_command_is_in_the_readme() -> None:
    """A verb that the README does not name is one that nobody finds."""
    readme = (REPOSITORY / "README.md").read_text()
    verbs = set(re.findall(r"^\| `sandbox-build \[?([a-z-]+)", readme, re.MULTILINE))
    assert verbs == set(commands.commands)


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    """Relative links in README and docs/ name files that are there."""
    for page in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
