"""What several runs come to: their union, in a fixed order, explained, and the fewest lines that allow it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from builder.arch import ARCHES
from builder.config_edit import Allowed
from builder.jailrun import Outcome
from builder.status import Denied
from builder.trace import (
    Runs,
    Source,
    Trace,
    as_data,
    counterpart,
    describe_end,
    make_trace,
    render_text,
    repeat,
)

AMD64, ARM64 = ARCHES["amd64"], ARCHES["arm64"]
FILES, SIGNALS, NETWORK = (
    "syscalls: {groups: [files]}",
    "syscalls: {groups: [signals]}",
    "enable_network: true",
)
SYNC, PTRACE = "syscalls: {allow: [sync]}", "syscalls: {unsafe: [ptrace]}"
SCRIPT = Source("dir/script.py", "import os\n\nos.mkdir('x')\n")
CALLS: dict[str, Any] = {
    "82": {"name": "rename", "ways": [[FILES, []]]},
    "83": {"name": "mkdir", "ways": [[FILES, []]]},
    "257": {"name": "openat", "ways": [[FILES, [[[2, 1, 0]]]]]},
    "258": {"name": "mkdirat", "ways": [[FILES, []]]},
    "62": {"name": "kill", "ways": [[SIGNALS, []], [FILES, []]]},
    "200": {"name": "tkill", "ways": [[SIGNALS, []], [FILES, [[[0, 1, 1]]]]]},
    "162": {"name": "sync", "ways": [[SYNC, []]]},
    "101": {"name": "ptrace", "ways": [[PTRACE, []]], "danger": "takes over another process"},
}


def denied(call: str, allow: str = FILES, **changes: Any) -> Denied:
    plain = Denied(call, 7, (0,) * 6, 3, (("main.py", 3),), allow, danger="", passed=True, count=1)
    return replace(plain, **changes)


DANGEROUS = denied("ptrace", PTRACE, danger="takes over another process", passed=False)


def outcome(*calls: Denied, exit_code: int = 0, **changes: Any) -> Outcome:
    return Outcome(exit_code, {"naming": True}, denied=calls, **changes)


def trace(*calls: Denied, source: Source = SCRIPT, arch: str = "amd64", **changes: Any) -> Trace:
    runs = Runs((outcome(*calls, **changes),), calls, None)
    return make_trace(runs, CALLS, source, "image.tar", ARCHES[arch], AMD64)


# Several runs


@pytest.mark.parametrize(
    ("shown", "most", "taken", "settled"),
    [
        (["a", "a"], 1, 1, None),
        (["a", "a", "b"], 9, 2, True),
        (["a", "b", "", "c"], 9, 3, True),
        (["a", "b"], 2, 2, False),
        (["", ""], 9, 2, True),
        (["ab", "ba"], 9, 2, True),
    ],
)
def test_repeat(shown: list[str], most: int, taken: int, settled: bool | None) -> None:
    """It goes on until a run adds nothing, or to the limit, and says which of the two it was."""
    left = iter(shown)
    runs = repeat(lambda: outcome(*(denied(name) for name in next(left))), most)
    assert (len(runs.outcomes), runs.settled) == (taken, settled)
    assert [one.call for one in runs.denied] == sorted({name for one in shown[:taken] for name in one})


def test_union() -> None:
    """A call that is allowed in two ways is two; the place is the first run's, the count the highest."""
    outcomes = iter(
        [
            outcome(denied("a", count=3), denied("a", SYNC)),
            outcome(denied("a", count=5, line=9), denied("b")),
            outcome(denied("a", count=4)),
        ]
    )
    runs = repeat(lambda: next(outcomes), 9)
    assert [(one.call, one.allow, one.line, one.count) for one in runs.denied] == [
        ("a", FILES, 3, 5),
        ("a", SYNC, 3, 1),
        ("b", FILES, 3, 1),
    ]


# What it means


def test_order() -> None:
    """Riskiest first, then by name, in whatever order the calls were seen."""
    seen = [
        denied("mkdir"),
        denied("sync", SYNC),
        denied("socket", NETWORK),
        DANGEROUS,
        denied("kill", SIGNALS),
    ]
    names = ["ptrace", "sync", "socket", "kill", "mkdir"]
    assert [one.call for one in trace(*seen).findings] == names
    assert render_text(trace(*seen)) == render_text(trace(*reversed(seen)))


def test_finding() -> None:
    """A group's sentence of risk, and the number of calls that its line opens, partly opened ones too."""
    (finding,) = trace(denied("mkdir", count=4)).findings
    assert (finding.risk, finding.newly_permits, finding.count) == ("files", 6, 4)
    assert finding.meaning.startswith("Code writes where the jail lets its user write")
    (single,) = trace(denied("ioctl", 'syscalls: {allow: [{ioctl: {when: ["request == 1"]}}]}')).findings
    assert (single.risk, single.newly_permits) == ("no group", 1)


@pytest.mark.parametrize(
    ("stack", "line", "where", "led_by"),
    [
        ([("main.py", 3)], 3, "dir/script.py:3: os.mkdir('x')", None),
        ([("/lib/os.py", 9), ("main.py", 3)], 3, "/lib/os.py:9", "dir/script.py:3: os.mkdir('x')"),
        ([("/lib/os.py", 9)], 3, "/lib/os.py:9", "dir/script.py:3: os.mkdir('x')"),
        ([("/lib/threading.py", 9)], None, "/lib/threading.py:9", None),
        ([], 3, "dir/script.py:3: os.mkdir('x')", None),
        ([], None, None, None),
        # Forged by the code: lines that it does not have, and a terminal's control sequences.
        ([("main.py", 99)], 99, "dir/script.py:99", None),
        ([("main.py", 2)], 2, "dir/script.py:2", None),
        ([("/\x1b[2J\n", 1)], None, "/\\x1b[2J\\n:1", None),
    ],
)
def test_place(stack: list[tuple[str, int]], line: int | None, where: str | None, led_by: str | None) -> None:
    """The innermost line, and where that is not the code's own, the line of the code that led there."""
    (finding,) = trace(denied("mkdir", stack=tuple(stack), line=line)).findings
    assert (finding.where, finding.led_by) == (where, led_by)


@pytest.mark.parametrize(
    ("stack", "where", "led_by"),
    [
        ([("/m.py", 2), ("main.py", 3)], "/m.py:2", None),
        ([("/lib/os.py", 9), ("/m.py", 2), ("main.py", 3)], "/lib/os.py:9", "/m.py:2"),
        ([("/lib/os.py", 9), ("/m.py", 2)], "/lib/os.py:9", None),
        ([("main.py", 3)], None, None),
    ],
)
def test_place_in_a_module(stack: list[tuple[str, int]], where: str | None, led_by: str | None) -> None:
    """With -m the code is the module: the program that runs it is not shown."""
    (finding,) = trace(
        denied("mkdir", stack=tuple(stack), line=3), source=Source("-m m", is_module=True)
    ).findings
    assert (finding.where, finding.led_by) == (where, led_by)


def test_fewest_lines() -> None:
    """A line goes where the other lines allow all its calls always; one that they allow in part stays."""
    assert trace(denied("kill", SIGNALS), denied("mkdir")).config == Allowed(groups=("files",))
    seen = (denied("kill", SIGNALS), denied("tkill", SIGNALS), denied("mkdir"))
    assert trace(*seen).config == Allowed(groups=("files", "signals"))
    assert trace(denied("openat"), denied("sync", SYNC), denied("socket", NETWORK)).config == Allowed(
        network=True, groups=("files",), allow=(("sync", ()),)
    )


def test_two_lines_that_cover_each_other() -> None:
    """Of two lines each of which would do, one is left."""
    calls = {"1": {"name": "kill", "ways": [[SIGNALS, []], [FILES, []]]}}
    seen = (denied("kill", SIGNALS), denied("kill"))
    made = make_trace(Runs((outcome(),), seen, None), calls, SCRIPT, "image.tar", AMD64, AMD64)
    assert len(made.config.groups) == 1


def test_fewest_lines_of_translated_calls() -> None:
    """Which line allows which call is asked by the names of the machine that ran the code."""
    calls = {"83": {"name": "mkdir", "ways": [[SIGNALS, []], [FILES, []]]}}
    seen = (denied("mkdir", SIGNALS), denied("rename"))
    made = make_trace(Runs((outcome(),), seen, None), calls, SCRIPT, "image.tar", ARM64, AMD64)
    assert made.config == Allowed(groups=("files",))


def test_words() -> None:
    """What no line of config.yaml allows is told in the runtime's words, and is in no lines."""
    words = "take it out of syscalls.deny"
    made = trace(denied("sync", words), denied("mkdir", ""))
    assert made.config == Allowed()
    assert f"{words}\n    sync: once" in render_text(made)
    assert "no line of config.yaml is known that allows\n    mkdir: once" in render_text(made)


# Another architecture


def test_counterpart() -> None:
    """A name that the architecture has is kept, one that it has not is translated, or is nothing there."""
    names = ("mkdirat", "mkdir", "fork", "iopl", "a call without a name")
    assert [counterpart(name, ARM64) for name in names] == ["mkdirat", "mkdirat", "clone", None, None]
    assert counterpart("mkdir", AMD64) == "mkdir"


def test_translated() -> None:
    """For arm64 the calls have its names and numbers, and the result says that it was not run there."""
    made = trace(
        denied("mkdir"), denied("iopl", "syscalls: {unsafe: [iopl]}", danger="raw access"), arch="arm64"
    )
    (finding,) = made.findings
    assert (finding.call, finding.number, finding.alias_of) == ("mkdirat", 34, "mkdir")
    assert finding.newly_permits == 5  # mkdir and mkdirat are one there
    (same,) = trace(denied("kill", SIGNALS, number=62), arch="arm64").findings
    assert (same.call, same.number, same.alias_of) == ("kill", 129, None)
    assert (made.left_out, made.config, made.unsafe) == (("iopl",), Allowed(groups=("files",)), Allowed())
    text = render_text(made)
    assert "The code ran on amd64, and the names are translated to arm64:" in text
    assert "mkdirat (here mkdir): once" in text
    assert "not on arm64: iopl" in text


def test_own_architecture_leaves_nothing_out() -> None:
    """A call that no table names is shown all the same."""
    (finding,) = trace(denied("a call without a name", "", number=999)).findings
    assert (finding.call, finding.number) == ("a call without a name", 999)


# What is printed


def test_text() -> None:
    """The whole of it, as a person sees it, ends in lines that are YAML."""
    os_open = (("/lib/os.py", 9), ("main.py", 3))
    seen = [denied("mkdir", count=2), denied("openat", stack=os_open), denied("sync", SYNC), DANGEROUS]
    assert render_text(trace(*seen)) == (
        "4 system calls beyond the policy of image.tar, on amd64, in 1 run:\n"
        "\n"
        "syscalls: {unsafe: [ptrace]}\n"
        "  WARNING: dangerous, and so denied even while tracing: takes over another process\n"
        "    ptrace: once, at dir/script.py:3: os.mkdir('x')\n"
        "\n"
        "syscalls: {allow: [sync]}\n"
        "  newly permits 1 call. No group has this: the catalog has not weighed it.\n"
        "    sync: once, at dir/script.py:3: os.mkdir('x')\n"
        "\n"
        "syscalls: {groups: [files]}\n"
        "  newly permits 6 calls. Code writes where the jail lets its user write, which is its scratch "
        "folder, up to the limit of file size.\n"
        "    mkdir: 2 times, at dir/script.py:3: os.mkdir('x')\n"
        "    openat: once, at /lib/os.py:9, led there by dir/script.py:3: os.mkdir('x')\n"
        "\n"
        "# What allows this, in config.yaml:\n"
        "syscalls:\n"
        "  groups: [files]\n"
        "  allow: [sync]\n"
        "# Dangerous, and left out: ptrace; --unsafe adds it\n"
    )


def test_unsafe() -> None:
    """Dangerous calls are in the lines only where that is asked for."""
    made = trace(denied("mkdir"), DANGEROUS)
    assert (made.config, made.unsafe) == (Allowed(groups=("files",)), Allowed(unsafe=("ptrace",)))
    lines = [render_text(made, unsafe=asked).partition("config.yaml:\n")[2] for asked in (False, True)]
    assert [yaml.safe_load(one) for one in lines] == [
        {"syscalls": {"groups": ["files"]}},
        {"syscalls": {"groups": ["files"], "unsafe": ["ptrace"]}},
    ]


@pytest.mark.parametrize(
    ("runs", "settled", "text"),
    [
        (1, None, "Nothing beyond the policy of image.tar in 1 run.\n"),
        (2, True, "Nothing beyond the policy of image.tar in 2 runs, the last of which added nothing.\n"),
    ],
)
def test_nothing(runs: int, settled: bool | None, text: str) -> None:
    """Code that the policy suffices for is told so, in one line."""
    made = make_trace(Runs((outcome(),) * runs, (), settled), CALLS, SCRIPT, "image.tar", AMD64, AMD64)
    assert render_text(made) == text


def test_data() -> None:
    """JSON has the same, and the two parts of the config."""
    data = as_data(trace(denied("mkdir"), DANGEROUS, exit_code=1, denied_whole=False))
    assert {key: data[key] for key in data if key != "calls"} == {
        "image": "image.tar",
        "arch": "amd64",
        "traced_on": "amd64",
        "runs": 1,
        "settled": None,
        "ended": "exit code 1",
        "whole": False,
        "left_out": [],
        "config": "syscalls:\n  groups: [files]\n",
        "unsafe_config": "syscalls:\n  unsafe: [ptrace]\n",
    }
    assert [(one["call"], one["passed"]) for one in data["calls"]] == [("ptrace", False), ("mkdir", True)]


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (outcome(), None),
        (outcome(exit_code=3), "exit code 3"),
        (outcome(exit_code=139), "exit code 139, as of SIGSEGV"),
        (outcome(exit_code=255), "exit code 255"),
        (outcome(exit_code=124), "exit code 124"),
        (outcome(exit_code=124, stopped="timeout"), "a time-out"),
        (outcome(exit_code=125, stopped="output"), "too much output"),
    ],
)
def test_end(ended: Outcome, said: str | None) -> None:
    """How the code ended, in words."""
    assert describe_end(ended) == said
