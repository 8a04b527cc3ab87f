"""`trace --write`: what config.yaml allows besides is added in place, and nothing else of it changes."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest
import yaml

from builder.config import load_config
from builder.config_edit import Allowed, add_allowed, parse_allowed, render_allowed, write_allowed
from builder.errors import ConfigError, UsageError
from tests.conftest import REPOSITORY

FILES = Allowed(groups=("files",))
IOCTL = Allowed(allow=(("ioctl", ("request == 0x5413",)),))
ALL = Allowed(network=True, groups=("numeric", "signals"), allow=(("sync", ()),), unsafe=("ptrace",))


# What a part of a config is


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("syscalls: {groups: [files]}", FILES),
        ("enable_network: true", Allowed(network=True)),
        ("syscalls: {allow: [mbind]}", Allowed(allow=(("mbind", ()),))),
        ('syscalls: {allow: [{ioctl: {when: ["request == 0x5413"]}}]}', IOCTL),
        ("syscalls: {unsafe: [ptrace]}", Allowed(unsafe=("ptrace",))),
        ("take it out of syscalls.deny", None),
        ("it is open at jail: {level: chroot}; Landlock does not govern it", None),
        ("nothing does with these flags, which make a namespace", None),
        ("syscalls: {deny: [mbind]}", None),
        ("syscalls: {groups: [files]}\nlimits: {}", None),
        ("syscalls: {allow: ['a: b']}", None),
        ("syscalls: {allow: [1]}", None),
        ("syscalls: files", None),
        ("", None),
        ("[", None),
        (
            'enable_network: true and syscalls: {allow: [{socket: {when: ["family == 0x10"]}}]}',
            Allowed(network=True, allow=(("socket", ("family == 0x10",)),)),
        ),
    ],
)
def test_parse(text: str, allowed: Allowed | None) -> None:
    """The runtime's advice is a part of a config, or words that nothing is made of."""
    assert parse_allowed(text) == allowed


def test_union() -> None:
    """Together: sorted, each thing once, and a call that is wanted whole has no conditions left."""
    other = Allowed(groups=("exec", "files"), allow=(("ioctl", ("request == 1",)), ("sync", ())))
    assert FILES | IOCTL | other == Allowed(
        groups=("exec", "files"), allow=(("ioctl", ("request == 0x5413", "request == 1")), ("sync", ()))
    )
    assert IOCTL | Allowed(allow=(("ioctl", ()),)) == Allowed(allow=(("ioctl", ()),))


def test_rendered_is_a_config(tmp_path: Path) -> None:
    """What is printed for pasting is YAML that loads, and says the same when it is read back."""
    text = render_allowed(ALL | IOCTL)
    assert text == (
        "enable_network: true\n"
        "syscalls:\n"
        "  groups: [numeric, signals]\n"
        '  allow: [{ioctl: {when: ["request == 0x5413"]}}, sync]\n'
        "  unsafe: [ptrace]\n"
    )
    (tmp_path / "config.yaml").write_text(text)
    config, _ = load_config(tmp_path / "config.yaml", {})
    assert (config.enable_network, config.syscalls.groups) == (True, ("numeric", "signals"))
    assert render_allowed(Allowed()) == ""


# The text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "syscalls: {groups: [files]}\n"),
        ("# nothing\n", "# nothing\nsyscalls: {groups: [files]}\n"),
        ("# nothing", "# nothing\nsyscalls: {groups: [files]}\n"),
        ("---\n", "---\nsyscalls: {groups: [files]}\n"),
        ("base: host", "base: host\nsyscalls: {groups: [files]}"),
        ("base: host # b\n# end\n", "base: host # b\nsyscalls: {groups: [files]}\n# end\n"),
        ("base: host\n...\n", "base: host\nsyscalls: {groups: [files]}\n...\n"),
        ("  base: host\n", "  base: host\n  syscalls: {groups: [files]}\n"),
        ("app:\n", "app:\nsyscalls: {groups: [files]}\n"),
        ("app:\n  port: 1 # p\n\n", "app:\n  port: 1 # p\nsyscalls: {groups: [files]}\n\n"),
        ("a: &a [1]\nb: *a # b\n", "a: &a [1]\nb: *a # b\nsyscalls: {groups: [files]}\n"),
        ("a: |\n  text\n\n# end\n", "a: |\n  text\nsyscalls: {groups: [files]}\n\n# end\n"),
        ("{}", "{syscalls: {groups: [files]}}"),
        ("{base: host}", "{base: host, syscalls: {groups: [files]}}"),
        ("syscalls:\n", "syscalls: {groups: [files]}\n"),
        ("syscalls:   # none\nbase: host\n", "syscalls: {groups: [files]}   # none\nbase: host\n"),
        ("syscalls: ~\n", "syscalls: {groups: [files]}\n"),
        ("syscalls: {}\n", "syscalls: {groups: [files]}\n"),
        ("syscalls: {allow: [sync] }\n", "syscalls: {allow: [sync], groups: [files] }\n"),
        ("syscalls: {groups: [] , allow: []}", "syscalls: {groups: [files] , allow: []}"),
        ("syscalls: {groups: , allow: []}", "syscalls: {groups: [files] , allow: []}"),
        ("syscalls:\n  allow: []\n", "syscalls:\n  allow: []\n  groups: [files]\n"),
        ("syscalls:\n  groups: # g\n", "syscalls:\n  groups: [files] # g\n"),
        ("syscalls:\n  groups:\n  allow: []\n", "syscalls:\n  groups: [files]\n  allow: []\n"),
        ("'syscalls' :\n  'groups' : null\n", "'syscalls' :\n  'groups' : [files]\n"),
        ("syscalls:\n  groups: [exec, ]\n", "syscalls:\n  groups: [exec, files, ]\n"),
        ("syscalls:\n  groups: [ exec ] # g\n", "syscalls:\n  groups: [ exec, files ] # g\n"),
        ("syscalls: {groups: [\n  exec, # e\n]}", "syscalls: {groups: [\n  exec, files, # e\n]}"),
        (
            "syscalls:\n    groups:\n        - exec # e\n\n# end\n",
            "syscalls:\n    groups:\n        - exec # e\n        - files\n\n# end\n",
        ),
        (
            "syscalls:\n  groups:\n  - exec\n  allow: []\n",
            "syscalls:\n  groups:\n  - exec\n  - files\n  allow: []\n",
        ),
        ("syscalls:\n  groups:\n  - exec", "syscalls:\n  groups:\n  - exec\n  - files"),
        ("syscalls:\n  groups: &g\n    - exec\n", "syscalls:\n  groups: &g\n    - exec\n    - files\n"),
        ("syscalls:\n  groups: &g [exec]\n", "syscalls:\n  groups: &g [exec, files]\n"),
        ("# ü 𝄞\nsyscalls: {groups: [exec]}\n", "# ü 𝄞\nsyscalls: {groups: [exec, files]}\n"),
        ("\ufeffsyscalls: {groups: [exec]}\n", "\ufeffsyscalls: {groups: [exec, files]}\n"),
        ("syscalls: {groups: [files]}", "syscalls: {groups: [files]}"),
        ("syscalls:\n  groups:\n  - 'files'", "syscalls:\n  groups:\n  - 'files'"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_group(before: str, after: str, newline: str) -> None:
    """A group is added to each form that a config can have, a second time nothing is."""
    before, after = before.replace("\n", newline), after.replace("\n", newline)
    if newline == "\r\n" and "\n" not in before:
        after = after.replace("\r\n", "\n")  # nothing says which one it is
    assert add_allowed(before, FILES) == after
    assert add_allowed(after, FILES) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "enable_network: true\n"),
        ("enable_network: false # n\n", "enable_network: true # n\n"),
        ("enable_network: # n\nbase: host\n", "enable_network: true # n\nbase: host\n"),
        ("enable_network: yes\n", "enable_network: yes\n"),
        ("{enable_network: off}", "{enable_network: true}"),
    ],
)
def test_network(before: str, after: str) -> None:
    """The network is a key of its own."""
    assert add_allowed(before, Allowed(network=True)) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'syscalls: {allow: [{ioctl: {when: ["request == 0x5413"]}}]}\n'),
        ("syscalls: {allow: [ioctl]}", "syscalls: {allow: [ioctl]}"),
        (
            "syscalls: {allow: [{ioctl: {when: [request == 1]}}]}",
            'syscalls: {allow: [{ioctl: {when: [request == 1, "request == 0x5413"]}}]}',
        ),
        (
            "syscalls:\n  allow:\n  - ioctl:\n      when:\n      - request == 1 # one\n  - sync\n",
            "syscalls:\n  allow:\n  - ioctl:\n      when:\n      - request == 1 # one\n"
            '      - "request == 0x5413"\n  - sync\n',
        ),
        (
            "syscalls:\n  allow:\n  - prctl: {when: [option == 1]} # p\n",
            "syscalls:\n  allow:\n  - prctl: {when: [option == 1]} # p\n"
            '  - {ioctl: {when: ["request == 0x5413"]}}\n',
        ),
        (
            "syscalls: {allow: [{ioctl: {when: ['request == 0x5413']}}]}",
            "syscalls: {allow: [{ioctl: {when: ['request == 0x5413']}}]}",
        ),
    ],
)
def test_conditions(before: str, after: str) -> None:
    """A condition goes to the call's own entry, where there is one."""
    assert add_allowed(before, IOCTL) == after
    assert add_allowed(after, IOCTL) == after


@pytest.mark.parametrize(
    ("before", "allowed", "why"),
    [
        (
            "python_lib_path: &g [/a]\nsyscalls: {groups: *g}\n",
            FILES,
            "groups is an alias of what line 1 has",
        ),
        ("x: &s {groups: []}\nsyscalls: *s\n", FILES, "syscalls is an alias of what line 1 has"),
        ("x: &g [exec]\ny: [*g]\nsyscalls: {groups: &h [exec]}\nz: *h\n", FILES, "it has an anchor"),
        ("{syscalls}", FILES, "a form that is not understood"),
        ("? syscalls\n? 'a: b'\n", FILES, "a form that is not understood"),
        (
            "syscalls: {allow: [{ioctl: {when: [request == 1]}}]}",
            Allowed(allow=(("ioctl", ()),)),
            "syscalls.allow[0] has conditions, and ioctl is wanted whole",
        ),
    ],
)
def test_what_cannot_be_edited(before: str, allowed: Allowed, why: str) -> None:
    """An edit that would change anything else is refused, with the lines to add by hand."""
    with pytest.raises(UsageError) as caught:
        add_allowed(before, allowed, "some.yaml")
    assert caught.value.message.startswith("some.yaml: cannot be edited in place: ")
    assert why in caught.value.message
    assert caught.value.hint == f"add it by hand:\n{render_allowed(allowed)}"


def test_any_config() -> None:
    """200 configs of random form: each edit gives the right data, and keeps what the config had."""
    chance = random.Random(4)
    refused = 0
    for _ in range(200):
        before = _any_config(chance)
        try:
            after = add_allowed(before, ALL)
        except UsageError:
            refused += 1
            continue
        data, old = yaml.safe_load(after), yaml.safe_load(before) or {}
        assert data["enable_network"] is True
        old_groups = (old.get("syscalls") or {}).get("groups") or []
        assert data["syscalls"]["groups"] == [*old_groups, "numeric", "signals"]
        others = old.keys() - {"syscalls", "enable_network"}
        assert {key: data[key] for key in others} == {key: old[key] for key in others}
        assert after.count("#") == before.count("#")
        assert add_allowed(after, ALL) == after
    assert refused == 0


def _any_config(chance: random.Random) -> str:
    def comment() -> str:
        return chance.choice(["", "", "  # a comment", " # [x]: {y}"])

    lines = []
    for key in chance.sample(["base", "app", "enable_network", "syscalls", "limits"], chance.randrange(6)):
        if key == "base":
            lines.append("base: " + chance.choice(["host", '"debian:trixie"', "python:3.13"]) + comment())
        elif key == "enable_network":
            lines.append("enable_network: " + chance.choice(["", "true", "false", "~"]) + comment())
        elif key == "syscalls":
            lines += _any_syscalls(chance, comment())
        else:
            lines += [f"{key}:{comment()}", *chance.choice([[], ["  # port: 1"]])]
        lines += [""] * chance.randrange(2) + ["# between"] * chance.randrange(2)
    newline = chance.choice(["\n", "\r\n"])
    return newline.join(lines) + chance.choice(["", newline])


def _any_syscalls(chance: random.Random, comment: str) -> list[str]:
    lists = chance.sample(["groups", "allow", "deny", "unsafe"], chance.randrange(5))
    names = {"groups": ["exec", "memfd"], "allow": ["sync", "msync"], "deny": ["kill"], "unsafe": ["bpf"]}
    if chance.random() < 0.3:
        inner = ", ".join(f"{key}: [{', '.join(names[key][: chance.randrange(3)])}]" for key in lists)
        return [f"syscalls: {{{inner}}}{comment}"]
    lines = [f"syscalls:{comment}"]
    indent = " " * chance.choice([1, 2, 4])
    for key in lists:
        some = names[key][: chance.randrange(3)]
        if some and chance.random() < 0.5:
            dash = indent + chance.choice(["", "  "])
            lines += [f"{indent}{key}:{comment}", *(f"{dash}- {name}{comment}" for name in some)]
        else:
            lines.append(f"{indent}{key}: [{', '.join(some)}]{comment}")
    return lines


# The file


def test_the_shipped_config(tmp_path: Path) -> None:
    """Of the config that ships, the two lists change, the network's line, and nothing else."""
    path = tmp_path / "config.yaml"
    shipped = (REPOSITORY / "config.yaml").read_bytes()
    path.write_bytes(shipped)
    wanted = Allowed(network=True, groups=("exec", "signals"), allow=(("sync", ()),))
    diff = write_allowed(path, wanted)
    assert path.read_bytes() == shipped.replace(b"enable_network: false", b"enable_network: true").replace(
        b"  groups: []  #", b"  groups: [exec, signals]  #"
    ).replace(b"  allow: []   #", b"  allow: [sync]   #")
    changed = [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert [line[0] for line in changed] == ["-", "+", "-", "-", "+", "+"]
    assert "+enable_network: true" in changed
    inode = path.stat().st_ino
    assert (write_allowed(path, wanted), path.stat().st_ino) == ("", inode)


def test_mode_link_and_neighbours(tmp_path: Path) -> None:
    """The file keeps its mode and its owner, a link to it stays one, and the folder has no new file."""
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real/config.yaml", tmp_path / "config.yaml"
    real.write_text("base: host\n")
    real.chmod(0o640)
    os.chown(real, 12345, 54321)
    link.symlink_to(real)
    assert write_allowed(link, FILES) != ""
    assert link.is_symlink()
    status = real.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, 12345, 54321)
    assert real.read_text() == "base: host\nsyscalls: {groups: [files]}\n"
    assert [path.name for path in real.parent.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("before", "allowed", "message"),
    [
        ("base: [", FILES, "config.yaml:1: this is not YAML"),
        ("syscalls: {groups: [fils]}\n", FILES, 'config.yaml:1: syscalls.groups[0]: no group named "fils"'),
        # Only the file that it would become is at fault.
        ("syscalls: {deny: [sync]}\n", Allowed(allow=(("sync", ()),)), "config.yaml (new):1: syscalls."),
        ("base: host\n", Allowed(groups=("filez",)), "config.yaml (new):2: syscalls.groups[0]: "),
    ],
)
def test_nothing_is_written_that_would_not_load(
    before: str, allowed: Allowed, message: str, tmp_path: Path
) -> None:
    """A config with a fault, or one that would get it, stays what it is."""
    path = tmp_path / "config.yaml"
    path.write_text(before)
    inode = path.stat().st_ino
    with pytest.raises(ConfigError) as caught:
        write_allowed(path, allowed)
    assert message in caught.value.message
    assert (path.read_text(), path.stat().st_ino) == (before, inode)
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_be_written() -> None:
    """Where no file can be made, that is said, with the lines to add by hand."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text("")
        path.parent.chmod(0o755)
        os.seteuid(12345)
        try:
            with pytest.raises(UsageError) as caught:
                write_allowed(path, FILES)
        finally:
            os.seteuid(0)
        assert caught.value.message == f"{path}: cannot be written: Permission denied"
        assert caught.value.hint == "add it by hand:\nsyscalls:\n  groups: [files]\n"
        assert path.read_text() == ""
