"""The CI templates of docs/ci, as what their jobs run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import REPOSITORY

README = REPOSITORY / "README.md"
GITHUB = REPOSITORY / "docs/ci/github-actions.yml"
GITLAB = REPOSITORY / "docs/ci/gitlab-ci.yml"

MERGE_REQUEST, MAIN = "merge request", "main"


def github(event: str) -> list[str]:
    """The lines that GitHub runs in its one job, in order."""
    wanted = {MERGE_REQUEST: "pull_request", MAIN: "push"}[event]
    lines: list[str] = []
    for step in _read(GITHUB)["jobs"]["image"]["steps"]:
        if "run" in step and step.get("if", wanted).rpartition(" ")[2].strip("'") == wanted:
            lines += step["run"].splitlines()
    return lines


def gitlab(event: str) -> list[str]:
    """The lines that GitLab runs in the job of the event."""
    document = _read(GITLAB)
    job = document[{MERGE_REQUEST: "check", MAIN: "push"}[event]]
    return [*document[job["extends"]]["before_script"], *job["script"]]


def readme(event: str) -> list[str]:
    """The commands in the README's section on CI; `A && B` is two."""
    section = README.read_text().partition("\n## CI\n")[2].partition("\n## ")[0]
    main, merge_request = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    lock, *rest = main.splitlines()
    return [*lock.split(" && "), *(merge_request.splitlines() if event == MERGE_REQUEST else rest)]


def ours(lines: list[str]) -> list[str]:
    """Of these lines what is about the image, with one name for each service's variable of the commit."""
    found = [line.partition(" #")[0].strip() for line in lines]
    return [
        re.sub(r"\$(GITHUB_SHA|CI_COMMIT_SHA)\b", "$COMMIT", line)
        for line in found
        if line.startswith(("sandbox-build", "git diff"))
    ]


def words(line: str) -> list[str]:
    """A command's words, with a name and a tag in place of the variables."""
    return shlex.split(line.replace("$IMAGE", "registry.example/team/image").replace("$COMMIT", "c0ffee"))


def _read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))
