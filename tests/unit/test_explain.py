"""Why something is in the tree: what a word means, the chain, the nearest names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.errors import UsageError, printable
from builder.explain import Explanation, explain, lines
from builder.main import main
from builder.report import Report
from builder.tree.origin import report_text
from tests.reports import LIBRARIES, distribution, hostile, raw


@pytest.fixture
def report() -> Report:
    return Report(raw())


def told(report: Report, what: str) -> list[str]:
    return [one.what for one in explain(report, what)]


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("pyyaml", ["PyYAML 6.0"]),
        ("yaml", ["PyYAML 6.0"]),
        ("_yaml", ["PyYAML 6.0"]),
        ("sklearn", ["learn 1.7"]),
        ("standard library", ["standard library"]),
        ("python", ["Python 3.13"]),
        ("libgfortran", ["libgfortran.so.5"]),
        ("libgfortran.so.5", ["libgfortran.so.5"]),
        ("gfortran", ["libgfortran.so.5"]),
        ("openblas", ["/packages/scipy.libs/libopenblas-5f.so.0"]),
        (
            "lib",
            [
                "libc.so.6",
                "libgfortran.so.5",
                "libquadmath.so.0",
                "libssl.so.3",
                "/packages/scipy.libs/libopenblas-5f.so.0",
            ],
        ),
        (f"{LIBRARIES}/libgfortran.so.5", [f"{LIBRARIES}/libgfortran.so.5.0.0"]),
        ("/lib/x86_64-linux-gnu/libc.so.6", [f"{LIBRARIES}/libc.so.6"]),
        ("/packages/scipy/", ["/packages/scipy"]),
        ("/", ["/"]),
        ("linalg/_fblas.so", ["/packages/scipy/linalg/_fblas.so"]),
        ("json/__init__.py", ["/usr/lib/python3.13/json/__init__.py"]),
    ],
)
def test_what_a_word_means(report: Report, what: str, names: list[str]) -> None:
    """A package by either name, a library by a part of its name, a path through links or by its end."""
    assert told(report, what) == names


def test_a_namespace_means_all_that_is_below_it() -> None:
    """`google` is no module of anybody; packages have some below it."""
    found = [
        distribution("PyYAML", "6.0", ["google.yaml"]),
        distribution("scipy", "1.16", ["google.science"]),
    ]
    assert told(Report(raw(distributions=found)), "google") == ["PyYAML 6.0", "scipy 1.16"]
    assert told(Report(raw(distributions=found)), "google.science") == ["scipy 1.16"]


def test_the_chain_of_a_file(report: Report) -> None:
    """From a link through the library and its package to the config."""
    [one] = explain(report, "/lib/x86_64-linux-gnu/libgfortran.so.5")
    assert [what for what, _ in one.chain] == [
        "/lib/x86_64-linux-gnu/libgfortran.so.5",
        f"{LIBRARIES}/libgfortran.so.5.0.0",
        "libgfortran.so.5",
        "scipy 1.16",
        "learn 1.7",
    ]
    assert one.chain[-1][1] == "dependencies: learn"
    assert one.needed_by == ("scipy 1.16",)
    assert one.bytes == 900


def test_all_that_is_said_of_a_package(report: Report) -> None:
    """Its own size, what goes with it, and what needs what; for a person in lines."""
    [one] = explain(report, "learn")
    assert (one.files, one.bytes, one.alone_bytes) == (3, 40, 7340)
    assert one.alone == ("scipy 1.16", "joblib 1.5", "libgfortran.so.5", "libquadmath.so.0")
    text = "\n".join(one.lines())
    assert "40 B (40 bytes) in 3 files, a locked package" in text
    assert "7.34 kB with what nothing else needs: scipy 1.16, joblib 1.5" in text
    assert "learn 1.7  dependencies: learn" in text
    [scipy] = explain(report, "scipy")
    assert scipy.needed_by == ("learn 1.7",)
    assert scipy.parts[0] == ("/packages/scipy.libs/libopenblas-5f.so.0", 5000)


def test_a_folder_of_many_says_what_brought_each_part(report: Report) -> None:
    """The largest first."""
    [one] = explain(report, LIBRARIES)
    assert one.parts[0] == ("libc.so.6", 2000)
    assert (one.files, one.bytes, one.chain) == (5, 3920, ())


@pytest.mark.parametrize(
    ("what", "near"),
    [
        ("pyyml", "PyYAML"),
        ("sklern", "sklearn"),
        ("libquadmat.so.9", "libquadmath.so.0"),
        ("/packages/scipi", "/packages/scipy"),
        ("/usr/local/lib/libc.so.6", f"{LIBRARIES}/libc.so.6"),
        ("/opt/libgfortran.so.5", f"{LIBRARIES}/libgfortran.so.5"),
        ("jsn", "did you mean json?"),
        ("_flas.so", "_fblas.so"),
        ("zzzzzz", "give a path, a package or a library"),
        ("", "give a path, a package or a library"),
    ],
)
def test_nothing_is_called_so(report: Report, what: str, near: str) -> None:
    """The hint has the nearest names; exit code 2."""
    with pytest.raises(UsageError) as failure:
        explain(report, what)
    assert near in str(failure.value.hint)
    assert failure.value.exit_code == 2


def test_many_matches_are_a_list() -> None:
    """Not a hundred pages."""
    many = [Explanation(f"/f{number}", "file", 1, number, ()) for number in range(13)]
    assert len(list(lines(many))) == 14
    assert len(list(lines(many[:2]))) == 5


def test_names_of_strangers_do_nothing_to_a_terminal() -> None:
    """Escapes, new lines and bytes that are no text come out readable."""
    text = "\n".join(
        line for what in ("yaml", "/packages", "libc") for line in lines(explain(hostile(), what))
    )
    assert "\\x1b[31m\\xff" in text
    assert "\\u2028\\u202e" in text
    assert all(char.isprintable() or char == "\n" for char in text)
    text.encode()
    assert printable("é\n\udc80") == "é\\n\\x80"


def test_explain_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints lines, or JSON; 2 with a hint for what is not there."""
    (tmp_path / "amd64").mkdir()
    (tmp_path / "amd64" / "report.json").write_text(report_text(raw()))
    assert run("explain", "yaml", "--arch=amd64", f"--output={tmp_path}") == 0
    assert capsys.readouterr().out.startswith("PyYAML 6.0\n")
    assert run("explain", "yaml", f"--image={tmp_path}/amd64/report.json", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["bytes"] == 36
    assert run("explain", "pyyml", f"--image={tmp_path}/amd64") == 2
    assert capsys.readouterr().err == (
        "error: pyyml: nothing in the tree is called so\nhint: did you mean PyYAML or yaml or _yaml?\n"
    )
    assert run("explain", "yaml", f"--output={tmp_path}/none") == 2


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)
