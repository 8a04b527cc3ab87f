"""Signing: what is run, with which words, and what is said when it fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from builder.errors import BuildError, ToolMissing
from builder.progress import Progress
from builder.sign import find_signer, sign, signing_command

IMAGE = "reg.example:5000/team/sandbox@sha256:" + "a" * 64
QUIET = Progress(quiet=True)


def script(folder: Path, text: str) -> str:
    """A program of the test's own."""
    path = folder / "signer"
    path.write_text(f"#!{sys.executable}\nimport sys\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["cosign", "sign", "--yes", "{image}"], ["cosign", "sign", "--yes", IMAGE]),
        (["s", "--ref={image}", "{image}"], ["s", f"--ref={IMAGE}", IMAGE]),
        (["s", "--yes"], ["s", "--yes", IMAGE]),
        (["s", "{}", "{{image}}", "{0}{name}%s$x"], ["s", "{}", f"{{{IMAGE}}}", "{0}{name}%s$x"]),
    ],
)
def test_words(command: list[str], words: list[str]) -> None:
    """{image} is NAME@DIGEST wherever it stands, or comes last; other braces are nobody's business."""
    assert signing_command(command, IMAGE) == words


def test_it_is_run_without_a_shell(tmp_path: Path) -> None:
    """Each word arrives as it is, whatever a shell would make of it."""
    record = tmp_path / "record"
    signer = script(tmp_path, f"open({str(record)!r}, 'w').write(repr(sys.argv[1:]))")
    sign([signer, "{image}", "; touch $HOME `id` *", ""], IMAGE, QUIET)
    assert record.read_text() == repr([IMAGE, "; touch $HOME `id` *", ""])


def test_it_has_no_terminal_and_no_input(tmp_path: Path) -> None:
    """Who asks for a passphrase is not waited for."""
    sign([script(tmp_path, "sys.exit(bool(sys.stdin.read()) or sys.stdin.isatty())")], IMAGE, QUIET)


def test_failure(tmp_path: Path) -> None:
    """One error: pushed, not signed, why in the signer's last words, and what to type."""
    signer = script(tmp_path, "print('no key', file=sys.stderr); sys.exit(7)")
    with pytest.raises(BuildError) as failed:
        sign([signer, "it's"], IMAGE, QUIET)
    message, *lines = failed.value.message.splitlines()
    assert message.startswith(f"{IMAGE} was pushed, but not signed: {signer} ")
    assert message.endswith(f" {IMAGE}: exit code 7")
    assert lines == ["  < no key"]
    assert failed.value.hint == f"""sign it with: {signer} 'it'"'"'s' {IMAGE}"""


def test_interruption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By then the tag is there: whoever interrupts us hears what that leaves to do."""
    signer = script(tmp_path, "import os, time; os.kill(os.getppid(), 2); time.sleep(600)")
    with pytest.raises(KeyboardInterrupt):
        sign([signer], IMAGE, Progress())
    said = capsys.readouterr().err
    assert f"{IMAGE} was pushed, but not signed: interrupted (sign it with: {signer} {IMAGE})" in said


def test_missing() -> None:
    """A signer that is not there is told before a build, and after a push."""
    with pytest.raises(ToolMissing) as missing:
        find_signer(["no-such-signer", "{image}"])
    assert missing.value.message == "image.sign: no-such-signer is not installed"
    with pytest.raises(ToolMissing) as missing:
        sign(["no-such-signer"], IMAGE, QUIET)
    assert missing.value.message == f"{IMAGE} was pushed, but not signed: no-such-signer is not installed"
    assert missing.value.hint == "install no-such-signer, or name another command in image.sign"


def test_found(tmp_path: Path) -> None:
    """By its path, or on PATH."""
    find_signer([script(tmp_path, "")])
    find_signer(["sh", "-c", "true"])


def test_no_program(tmp_path: Path) -> None:
    """What can be executed by its mode and is no program is no traceback."""
    path = tmp_path / "signer"
    path.write_bytes(b"\x00 nothing")
    path.chmod(0o755)
    with pytest.raises(BuildError, match=r"was pushed, but not signed: .*: Exec format error"):
        sign([str(path)], IMAGE, QUIET)
