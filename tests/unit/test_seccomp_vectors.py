"""Files of vectors: what they mean, when they hold, and every mistake in them at once."""

from dataclasses import replace
from pathlib import Path

import pytest

from builder.arch import ARCHES, Arch
from builder.errors import ConfigError, UsageError
from builder.seccomp import Call, Request, effective_policy, load_groups
from builder.seccomp.catalog import load_catalog
from builder.seccomp.snapshot import Snapshot
from builder.seccomp.syscalls import number
from builder.seccomp.vectors import EXPECTATIONS, Vector, our_vectors, read_vectors

AMD64, ARM64 = ARCHES["amd64"], ARCHES["arm64"]
both_arches = pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)


def read(tmp_path: Path, *entries: str) -> tuple[Vector, ...]:
    path = tmp_path / "vectors.yaml"
    path.write_text("vectors:\n" + "".join(f"  - {entry}\n" for entry in entries))
    return read_vectors(path)


def problems(tmp_path: Path, text: str) -> list[tuple[str, str | None]]:
    path = tmp_path / "vectors.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_vectors(path)
    return [(what.removeprefix(f"{path}:"), hint) for what, hint in caught.value.problems]


def snapshot(request: Request, arch: Arch = AMD64) -> Snapshot:
    return Snapshot.of(effective_policy(request, arch), arch)


def test_a_vector_has_a_call_and_an_answer(tmp_path: Path) -> None:
    """Names, numbers, constants, several joined, negative numbers; and the line where it stands."""
    one, two, three = read(
        tmp_path,
        "{call: mkdirat, expect: allow}",
        '{call: socket, arguments: [AF_INET, "SOCK_STREAM | 0x800", -1], expect: deny, why: no network}',
        "{call: 59, arch: amd64, abi: i386, expect: kill, with: core, without: [files], level: landlock}",
    )
    assert (one.call, one.expect, one.arguments, one.where) == (
        *("mkdirat", "allow", ()),
        f"{tmp_path / 'vectors.yaml'}:2",
    )
    assert two.arguments == (2, 0x801, -1)
    assert (three.arches, three.abi, three.within, three.without, three.level) == (
        *(("amd64",), "i386", ("core",), ("files",), "landlock"),
    )
    assert not one.yields


@pytest.mark.parametrize(
    ("entry", "on_amd64", "on_arm64"),
    [
        ("{call: mkdirat, expect: allow}", (0xC000003E, 258), (0xC00000B7, 34)),
        ("{call: open, expect: allow}", (0xC000003E, 2), None),
        ("{call: 59, arch: amd64, expect: allow}", (0xC000003E, 59), None),
        ("{call: 59, arch: [amd64, arm64], expect: allow}", (0xC000003E, 59), (0xC00000B7, 59)),
        ("{call: 39, abi: x32, expect: kill}", (0xC000003E, 0x40000027), (0xC00000B7, 0x40000027)),
        ("{call: 20, abi: i386, expect: kill}", (0x40000003, 20), (0x40000003, 20)),
        ("{call: 20, abi: arm, expect: kill}", (0x40000028, 20), (0x40000028, 20)),
        ("{call: 172, abi: arm64, expect: kill}", (0xC00000B7, 172), None),
    ],
)
def test_where_a_call_enters(
    tmp_path: Path, entry: str, on_amd64: tuple[int, int] | None, on_arm64: tuple[int, int] | None
) -> None:
    """AUDIT_ARCH and number on each architecture; nothing where that has no such call."""
    (vector,) = read(tmp_path, entry)
    assert (vector.entry(AMD64), vector.entry(ARM64)) == (on_amd64, on_arm64)


def test_when_a_vector_holds(tmp_path: Path) -> None:
    """Its groups, the groups that it excludes, and its level decide whether it says anything."""
    inside, outside, level = read(
        tmp_path,
        "{call: mkdirat, expect: allow, with: [files, memfd]}",
        "{call: mkdirat, expect: deny, without: [files]}",
        "{call: chmod, expect: deny, level: landlock}",
    )
    default, core = snapshot(Request()), snapshot(Request(("core",), replace=True))
    assert inside.concerns(default, "chroot")
    assert not inside.concerns(core, "chroot")
    assert outside.concerns(core, "chroot")
    assert not outside.concerns(default, "chroot")
    assert [level.concerns(default, name) for name in ("chroot", "landlock")] == [False, True]


def test_a_config_overrules_our_vectors_and_no_others(tmp_path: Path) -> None:
    """What the config itself opens or takes away is set aside of ours; what no config may decide is not."""
    catalog = load_catalog()
    edited = snapshot(
        Request(
            allow=(Call("ioctl", (catalog.line("ioctl", "request == 0x5410"),)),),
            deny=(Call("getrandom"),),
            unsafe=("chroot",),
        )
    )
    overruled = {(vector.call, vector.expect) for vector in our_vectors() if vector.overruled(edited)}
    assert overruled == {("chroot", "deny"), ("getrandom", "allow")}
    (mine,) = read(tmp_path, "{call: chroot, expect: deny}")
    assert not mine.overruled(edited)
    # TIOCSTI stands in the same call as what the config opens, and can be opened by nothing.
    typing = Vector("", "ioctl", "deny", (0, 0x5412), yields=True)
    assert not typing.overruled(replace(edited, allow={**edited.allow, "ioctl": ()}))
    assert replace(typing, arguments=(0, 0x5410)).overruled(edited)


@both_arches
def test_ours_are_met_by_the_policies_that_we_ship(arch: Arch) -> None:
    """Each vector of ours holds for some policy, and whichever holds is met, by the policy's own account."""
    seen = set()
    for request in (Request(), Request(("core",), replace=True), Request(tuple(load_groups()), network=True)):
        policy = snapshot(request, arch)
        for level, at_level in (("chroot", policy), ("landlock", policy.at_landlock())):
            for vector in our_vectors():
                entry = vector.entry(arch)
                if entry is None or not vector.concerns(policy, level):
                    continue
                seen.add(vector)
                if entry[0] == arch.audit_arch:
                    assert at_level.answer(entry[1], vector.arguments) == vector.expect, vector
                else:
                    assert vector.expect == "kill"
    assert {vector for vector in our_vectors() if vector.entry(arch)} == seen


def test_ours_ask_for_every_answer_abi_and_group() -> None:
    """No answer, no ABI, no group and no killed call's kind is without a vector."""
    ours = our_vectors()
    assert {vector.expect for vector in ours} == set(EXPECTATIONS)
    assert {vector.abi for vector in ours} == {None, "x32", "i386", "arm", "arm64", "amd64"}
    assert {group for vector in ours for group in vector.within} == set(load_groups())
    assert all(number(str(vector.call), AMD64) is not None for vector in ours if isinstance(vector.call, str))


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    """Unknown calls, answers, groups, keys and constants; wrong types; each with its line and a hint."""
    text = """\
vectors:
  - {call: mkdirat, expect: alow}
  - {call: MKDIRAT, expect: allow}
  - {call: "59", expect: deny}
  - {call: -3, arch: amd64, expect: deny}
  - {call: 0x100000000, arch: amd64, expect: deny}
  - {call: 59, expect: deny}
  - {call: open, arch: arm64, expect: deny}
  - {call: getpid, abi: i386, expect: kill}
  - {call: socket, arguments: [AF_INTE, 1], expect: deny}
  - {call: socket, arguments: AF_INET, expect: deny}
  - {call: socket, arguments: [1, 2, 3, 4, 5, 6, 7], expect: deny}
  - {call: socket, arguments: [[1]], expect: deny}
  - {call: socket, arguments: [true], expect: deny}
  - foo
  - {expect: deny}
  - {call: read, expect: allow, with: [cor], level: chrot, why: 3, wit: core}
  - {call: true, expect: 3}
  - {call: read, expect: allow, abi: [x32], arch: mips}
  - {call: read, expect: !!python/none x}
bad: 1
"""
    assert problems(tmp_path, text) == [
        ("2: vectors[0].expect: 'alow' is not understood", "did you mean allow?"),
        ("3: vectors[1].call: no system call named 'MKDIRAT' on amd64 or arm64", "did you mean mkdirat?"),
        (
            "4: vectors[2].call: no system call named '59' on amd64 or arm64",
            "take the quotes off, and add `arch: amd64` or `arch: arm64`",
        ),
        ("5: vectors[3].call: -3 is not understood", "numbers go from 0 to 0xffffffff"),
        ("6: vectors[4].call: 4294967296 is not understood", "numbers go from 0 to 0xffffffff"),
        (
            "7: vectors[5].call: whose number is this?",
            "add `arch: amd64` or `arch: arm64`; or write the call's name",
        ),
        ("8: vectors[6].call: arm64 has no call 'open'", "take it out of `arch`"),
        (
            "9: vectors[7].call: with `abi` the call's number is needed",
            "the number that the call has in that ABI",
        ),
        ("10: vectors[8].arguments: 'AF_INTE' is not understood", "did you mean AF_INET?"),
        (
            "11: vectors[9].arguments: 'AF_INET' is not understood",
            "a list of at most six: [AF_INET, 1, 0]",
        ),
        ("12: vectors[10].arguments: 7 arguments are too many", "a list of at most six: [AF_INET, 1, 0]"),
        (
            "13: vectors[11].arguments: this is not understood",
            "a number, a constant of seccomp.yaml, or several joined by |",
        ),
        (
            "14: vectors[12].arguments: True is not understood",
            "a number, a constant of seccomp.yaml, or several joined by |",
        ),
        (
            "15: vectors[13]: keys with values are needed",
            "write `vectors:` and below it lines such as `- {call: mkdirat, expect: allow}`",
        ),
        ("16: vectors[14].call: a value is needed", "the name of a system call, or its number"),
        ("17: vectors[15].wit: there is no such key", "did you mean with?"),
        ("17: vectors[15].level: 'chrot' is not understood", "did you mean chroot?"),
        ("17: vectors[15].with: 'cor' is not understood", "did you mean core?"),
        ("17: vectors[15].why: 3 is not understood", "put the text in quotes"),
        ("18: vectors[16].call: True is not understood", "the name of a system call, or its number"),
        ("18: vectors[16].expect: 3 is not understood", "one of allow, deny, enosys, kill"),
        (
            "19: vectors[17].abi: this is not understood",
            "one of x32, i386, arm, amd64, arm64",
        ),
        ("19: vectors[17].arch: 'mips' is not understood", "one of amd64, arm64"),
        (
            "20: vectors[18].expect: the tag 'tag:yaml.org,2002:python/none' is not understood",
            "write the value without a tag",
        ),
        (
            "21: bad: there is no such key",
            "write `vectors:` and below it lines such as `- {call: mkdirat, expect: allow}`",
        ),
    ]


@pytest.mark.parametrize("text", ["", "vectors:", "vectors: []", "vectors: {call: read}"])
def test_a_file_without_vectors_is_no_file_of_vectors(tmp_path: Path, text: str) -> None:
    """Nothing to test must not look like a test that passed."""
    ((what, _),) = problems(tmp_path, text)
    assert what == "1: vectors: a list is needed"


def test_a_list_by_itself_is_told_how_to_be_written(tmp_path: Path) -> None:
    """The hint is about vectors, not about config.yaml."""
    ((what, hint),) = problems(tmp_path, "- {call: read, expect: allow}\n")
    assert what == "1: the file is a list, not keys with values"
    assert str(hint).startswith("write `vectors:` and below it")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """One line and exit code 2."""
    with pytest.raises(UsageError, match=r"nowhere\.yaml: there is no such file"):
        read_vectors(tmp_path / "nowhere.yaml")
