"""What binfmt_misc says, and what it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.arch import host_arch
from builder.emulation import check_entry, parse_entry
from builder.errors import ToolMissing
from tests.fakeroot import elf

OTHER = {"amd64": "EM_AARCH64", "arm64": "EM_X86_64"}[host_arch().name]
QEMU = """\
enabled
interpreter /usr/bin/qemu-static
flags: {flags}
offset 0
magic 7f454c460201010000000000000000000300{machine}00
mask ffffffffffffff00fffffffffffffffffeffffff
"""
MACHINE = {"EM_AARCH64": "b7", "EM_X86_64": "3e"}


@pytest.fixture
def binfmt(tmp_path: Path) -> Path:
    folder = tmp_path / "binfmt"
    folder.mkdir()
    (folder / "status").write_text("enabled\n")
    (folder / "python").write_text("enabled\ninterpreter /usr/bin/python\nflags: \nextension .py\n")
    (folder / "jar").write_text("enabled\ninterpreter /usr/bin/jexec\nflags: \noffset 0\nmagic 504b0304\n")
    (folder / "broken").write_text("enabled\ninterpreter /x\nflags: F\noffset x\nmagic zz\n")
    (folder / "qemu").write_text(QEMU.format(flags="POCF", machine=MACHINE[OTHER]))
    return folder


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_bytes(elf(machine=OTHER))
    return path


def test_an_entry_of_the_architecture_is_found(binfmt: Path, program: Path) -> None:
    """By the beginning of the file, less what the mask leaves out; the control is of this machine."""
    check_entry(program, binfmt)
    program.write_bytes(elf())
    with pytest.raises(ToolMissing, match="no emulator is registered"):
        check_entry(program, binfmt)
    program.write_bytes(b"\x7fELF")
    with pytest.raises(ToolMissing, match="no emulator is registered"):
        check_entry(program, binfmt)


def test_an_entry_that_is_of_no_use(binfmt: Path, program: Path, tmp_path: Path) -> None:
    """Disabled, or all of them, or not opened ahead, or nothing is mounted."""
    text = (binfmt / "qemu").read_text()
    (binfmt / "qemu").write_text(text.replace("enabled", "disabled"))
    with pytest.raises(ToolMissing, match="no emulator is registered"):
        check_entry(program, binfmt)
    (binfmt / "qemu").write_text(text.replace("POCF", "POC"))
    with pytest.raises(ToolMissing, match="/usr/bin/qemu-static is registered without flag F"):
        check_entry(program, binfmt)
    (binfmt / "qemu").write_text(text)
    (binfmt / "status").write_text("disabled\n")
    with pytest.raises(ToolMissing, match="no emulator is registered"):
        check_entry(program, binfmt)
    with pytest.raises(ToolMissing, match="no emulator is registered"):
        check_entry(program, tmp_path / "absent")


def test_an_entry_without_a_mask_compares_everything() -> None:
    """binfmt_misc shows none where none was given."""
    entry = parse_entry("enabled\ninterpreter /x\nflags: F\noffset 2\nmagic 0102\n")
    assert entry is not None
    assert entry.takes(b"\0\0\1\2")
    assert not entry.takes(b"\0\0\1\3")
    assert not entry.takes(b"\0\0\1")
