"""What config.yaml and requirements files ask for, and what they cannot ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.arch import ARCHES
from builder.config import load_config
from builder.errors import ConfigError
from builder.packages import Inputs, read_inputs

BOTH = tuple(ARCHES.values())


def inputs(folder: Path, config: str, **files: str) -> Inputs | None:
    path = folder / "config.yaml"
    path.write_text(config)
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return read_inputs(load_config(path, {})[0], path, BOTH, "3.13")


def problems(folder: Path, text: str, **files: str) -> list[tuple[str, str | None]]:
    """What is wrong with a requirements file."""
    with pytest.raises(ConfigError) as caught:
        inputs(folder, "dependencies: r.txt\n", r=text, **files)
    return [(message.replace(f"{folder}/", ""), hint) for message, hint in caught.value.problems]


def test_a_list_and_a_file_are_the_same(tmp_path: Path) -> None:
    """Order, spelling, comments and line breaks mean nothing: the digest is the same."""
    listed = inputs(tmp_path, 'dependencies: ["Pandas[Excel,aws] >=2, <4", "six; python_version < \'4\'"]\n')
    text = "# ours\nsix ; python_version<'4'  # a comment\n\npandas[aws, excel]<4,\\\n  >=2\n"
    from_file = inputs(tmp_path, "dependencies: r.txt\n", r=text)
    assert listed is not None
    assert from_file is not None
    assert listed.requirements == ("pandas[aws,excel]<4,>=2", 'six ; python_version < "4"')
    assert (from_file.requirements, from_file.digest) == (listed.requirements, listed.digest)
    assert from_file.where["pandas"].endswith("r.txt:4")
    assert listed.where["pandas"].endswith("config.yaml:1: dependencies[0]")


def test_included_files_and_constraints(tmp_path: Path) -> None:
    """-r and -c are relative to the file that has them; what -c includes only constrains."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.txt").write_text("six\n-c ../c.txt\n")
    found = inputs(
        tmp_path, "dependencies: r.txt\n", r="numpy\n-r sub/more.txt\n", c="numpy<3\n-r d.txt", d="x<2"
    )
    assert found is not None
    assert (found.requirements, found.constraints) == (("numpy", "six"), ("numpy<3", "x<2"))


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("git+https://user:secret@host/x", "a package from a URL cannot be locked", "--wheelhouse"),
        ("six @ https://user:secret@host/x.whl", "'six' comes from a URL", "--wheelhouse"),
        ("./six-1.0.whl", "a file, which cannot be locked", "--wheelhouse"),
        ("-e .", "'-e': an editable package cannot be locked", "--wheelhouse"),
        ("--index-url=https://user:secret@host/", "an index cannot be chosen here", "python_pip_mirror_url"),
        (
            "--extra-index-url https://user:secret@h/",
            "an index cannot be chosen here",
            "python_pip_mirror_url",
        ),
        ("-f /wheels", "a folder of wheels cannot be named here", "--wheelhouse"),
        ("--no-binary :all:", "how a package is installed cannot be said here", "from_source"),
        ("--pre", "options have no meaning here", "take it out"),
        ("numpy==", "not a requirement", "a name, with a version"),
        ("six==1 --hash=sha256:abc", "a requirement with hashes", "take the hashes off"),
        ("-r https://host/r.txt", "a file from a URL cannot be included", "keep a copy"),
        ("-r gone.txt", "gone.txt: No such file or directory", "includes"),
        ("-r r.txt", "r.txt is included more than once", "take one of the lines out"),
    ],
)
def test_what_cannot_be_honoured_is_refused(tmp_path: Path, line: str, message: str, hint: str) -> None:
    """With file and line, a hint, and no password."""
    ((said, advice),) = problems(tmp_path, f"numpy\n\n{line}\n")
    assert said.startswith("r.txt:3: ")
    assert message in said
    assert hint in (advice or "")
    assert "secret" not in said


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("where", ["config", "include", "dify"])
def test_a_file_from_outside_is_not_read(tmp_path: Path, where: str, link: bool) -> None:
    """By a path or through a link, named in the config, by a requirements file, or found by itself."""
    secret = tmp_path / "netrc"
    secret.write_text("machine host login me password s3cret\n")
    folder = tmp_path / "project"
    (folder / "dependencies").mkdir(parents=True)
    named = "../netrc"
    if link or where == "dify":
        named = "dependencies/python-requirements.txt" if where == "dify" else "linked.txt"
        (folder / named).symlink_to(secret)
    config = {"config": f"dependencies: {named}\n", "include": "dependencies: r.txt\n", "dify": ""}[where]
    with pytest.raises(ConfigError) as caught:
        inputs(folder, config, r=f"-r {named}\n")
    ((message, hint),) = caught.value.problems
    assert message.endswith("netrc leads out of the folder of the config") or link or where == "dify"
    assert "leads out of the folder of the config" in message
    assert hint == "keep a copy beside the config"
    assert "machine" not in message
    # The control: inside of it, it is read.
    (folder / "r.txt").write_text("numpy\n")
    assert inputs(folder, "dependencies: r.txt\n") is not None


@pytest.mark.parametrize(
    "line",
    [
        "machine host password s3cret",
        "-----BEGIN-s3cret-KEY-----",
        "/s3cret",
        "s3cret --hash=x:y",
        "s3cret==",
    ],
)
def test_a_line_that_is_no_requirement_is_not_shown(tmp_path: Path, line: str) -> None:
    ((message, hint),) = problems(tmp_path, f"numpy\n{line}\n")
    assert message.startswith("r.txt:2: ")
    assert "s3cret" not in f"{message} {hint}"


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    assert len(problems(tmp_path, "a==\n-e .\nb\nb\n")) == 3


def test_what_is_asked_for_twice_is_refused(tmp_path: Path) -> None:
    """Unless the markers differ: then each may count on another platform."""
    ((said, _),) = problems(tmp_path, "Six>1\nsix<3\n")
    assert said == "r.txt:2: six is asked for before, at r.txt:1"
    markers = 'six<2; platform_machine == "x86_64"\nsix<3; platform_machine == "aarch64"\n'
    assert inputs(tmp_path, "dependencies: r.txt\n", r=markers) is not None


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"\xff\n", "it is not UTF-8 (byte 0)"), (b"a\0", "it is not a text"), (b"#" * 2**21, "larger")],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "config.yaml").write_text("dependencies: r.txt")
    (tmp_path / "r.txt").write_bytes(content)
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigError) as caught:
        read_inputs(load_config(path, {})[0], path, BOTH, "3.13")
    assert what in caught.value.message


def test_difys_file_is_taken_where_the_config_has_none(tmp_path: Path) -> None:
    """And not where it has an empty list."""
    assert inputs(tmp_path, "") is None
    (tmp_path / "dependencies").mkdir()
    dify = tmp_path / "dependencies" / "python-requirements.txt"
    dify.write_text("jinja2\n")
    found = inputs(tmp_path, "")
    assert found is not None
    assert (found.requirements, found.found_file) == (("jinja2",), dify)
    assert inputs(tmp_path, "dependencies: []\n") is None
    listed = inputs(tmp_path, "dependencies: [six]\n")
    assert listed is not None
    assert listed.found_file is None


def test_the_digest_is_of_what_decides_the_lock(tmp_path: Path) -> None:
    """Not of the index, which is a matter of the place."""
    digests = [
        found.digest
        for config in (
            "dependencies: [six]",
            "dependencies: [six]\npython_pip_mirror_url: https://u:p@h/",
            "dependencies: [six<2]",
            "dependencies: [six]\nfrom_source: {six: []}",
            "dependencies: [six]\nfrom_source: {six: [gcc]}",
        )
        if (found := inputs(tmp_path, config)) is not None
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4
