"""Programs of another architecture, run through qemu where this machine is set up for it (binfmt_misc)."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.attempt import Emulated
from builder.entrance import confined
from builder.errors import ToolMissing, VerificationFailed
from builder.image_settings import jail_tree
from builder.tree.spec import ISOLATED

BINFMT = Path("/proc/sys/fs/binfmt_misc")

SLOWER = 10
"""So many times longer an import may take as when it is not emulated."""

NOT_PROVEN = (
    "the system call policy: seccomp cannot be loaded under qemu",
    "Landlock, and the entrypoint that does the lock-down",
    "the limits of memory and of CPU time, which would be qemu's own",
)
"""What no run through qemu can show."""

_QEMU_BYTES = 1 << 30
"""What qemu takes of the address space besides the program's own."""


@dataclass(frozen=True)
class Entry:
    """One line of binfmt_misc: what it starts for which files."""

    interpreter: str
    flags: str
    offset: int
    magic: bytes
    mask: bytes

    def takes(self, head: bytes) -> bool:
        """Whether a file that begins with `head` is started through it."""
        part = head[self.offset : self.offset + len(self.magic)]
        return len(part) == len(self.magic) and all(
            (byte ^ wanted) & bits == 0
            for byte, wanted, bits in zip(part, self.magic, self.mask, strict=True)
        )


def parse_entry(text: str) -> Entry | None:
    """What a file of binfmt_misc says; None for an entry that is disabled or goes by a file's name."""
    lines = text.splitlines()
    facts = dict(line.partition(" ")[::2] for line in lines)
    if "enabled" not in facts or "magic" not in facts:
        return None
    try:
        magic = bytes.fromhex(facts["magic"])
        mask = bytes.fromhex(facts["mask"]) if "mask" in facts else b"\xff" * len(magic)
        flags = facts.get("flags:", "")
        return Entry(facts["interpreter"], flags, int(facts.get("offset", "0")), magic, mask)
    except (KeyError, ValueError):
        return None


def check_entry(program: Path, binfmt: Path = BINFMT) -> None:
    """ToolMissing where the kernel knows no emulator for `program`, or none that works in a jail."""
    with program.open("rb") as file:
        head = file.read(256)
    try:
        texts = [
            one.read_text() for one in sorted(binfmt.iterdir()) if one.name not in ("register", "status")
        ]
        entries = list(map(parse_entry, texts)) if (binfmt / "status").read_text() == "enabled\n" else []
    except OSError:
        entries = []
    found = [entry for entry in entries if entry is not None and entry.takes(head)]
    if not found:
        install = "apt-get install qemu-user-static binfmt-support"
        raise ToolMissing(f"no emulator is registered with binfmt_misc ({install})")
    # With this flag the kernel has opened the emulator already: the jail has none.
    if not any("F" in entry.flags for entry in found):
        raise ToolMissing(f"{found[0].interpreter} is registered without flag F of binfmt_misc")


def emulated(root: Path, settings: Mapping[str, Any], timeout_s: float) -> Emulated:
    """The tree of the image at `root`, in namespaces of its own, as an ordinary user that gains no privilege.

    `settings` are those of runtime.json. NOT_PROVEN says what it lacks of the jail. ToolMissing where this
    machine is not set up for it.
    """
    limits = settings["limits"]
    jail = jail_tree(root)
    if not jail.is_file(settings["python"]):
        raise VerificationFailed(f"{settings['python']} of the tree is no file", "build the image again")
    check_entry(jail.host(jail.resolve(settings["python"]).path))
    home = "/tmp"  # noqa: S108 - of the jail
    environment = dict(settings["env"]) | {"HOME": home, "TMPDIR": home}
    resources = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: limits["file_size_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_AS: limits["memory_bytes"] + _QEMU_BYTES,
    }

    def command(uid: int) -> Sequence[str]:
        enter = confined(
            jail.directory,
            uid,
            scratch=home,
            scratch_bytes=limits["scratch_bytes"],
            scratch_mode="1777",
            network=False,
            unprivileged=True,
            limits=resources,
            env=[f"{name}={value}" for name, value in environment.items()],
        )
        return (*enter, settings["python"], *ISOLATED)

    return Emulated(command, tuple(settings["sys_path"]), timeout_s * SLOWER, limits["output_bytes"])
