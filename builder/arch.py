"""The two architectures and every name that each of them has. Every `if` on an architecture lives here."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from builder.errors import UsageError


@dataclass(frozen=True)
class Arch:
    """One architecture, with its name in each of the worlds that a build touches."""

    name: str
    """Debian's, Docker's and our own name: amd64, arm64."""
    machine: str
    """What uname -m says: x86_64, aarch64."""
    triplet: str
    """GNU multiarch triplet: the folder below /usr/lib that holds the libraries."""
    elf_machine: str
    """e_machine as <elf.h> spells it."""
    loader: str
    """PT_INTERP of a glibc program (x86-64 psABI; Arm's sysvabi64)."""
    ld_so_cache_flags: int
    """FLAG_ELF_LIBC6 with FLAG_X8664_LIB64 or FLAG_AARCH64_LIB64 (glibc, sysdeps/generic/ldconfig.h)."""
    seccomp: str
    """Name of the architecture in pyseccomp's Arch."""
    audit_arch: int
    """AUDIT_ARCH_* in linux/audit.h: what seccomp_data.arch holds."""
    variant: str | None = None
    """OCI's platform.variant, as Docker names it."""

    @property
    def platform(self) -> str:
        """OCI platform: linux/amd64, linux/arm64."""
        return f"linux/{self.name}"


ARCHES: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        Arch(
            name="amd64",
            machine="x86_64",
            triplet="x86_64-linux-gnu",
            elf_machine="EM_X86_64",
            loader="/lib64/ld-linux-x86-64.so.2",
            ld_so_cache_flags=0x0303,
            seccomp="X86_64",
            audit_arch=0xC000003E,
        ),
        Arch(
            name="arm64",
            machine="aarch64",
            triplet="aarch64-linux-gnu",
            elf_machine="EM_AARCH64",
            loader="/lib/ld-linux-aarch64.so.1",
            ld_so_cache_flags=0x0A03,
            seccomp="AARCH64",
            audit_arch=0xC00000B7,
            variant="v8",
        ),
    )
}

_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armv8": "arm64"}


def parse_arch(name: str) -> Arch:
    """The architecture called `name`; UsageError (exit 2) for any other, with a hint for a known alias."""
    try:
        return ARCHES[name]
    except KeyError:
        known = " or ".join(ARCHES)
        meant = _ALIASES.get(name.lower())
        raise UsageError(
            f"unknown architecture {name!r}: it is {known}", f"did you mean {meant}?" if meant else None
        ) from None


def host_arch() -> Arch:
    """The architecture of this machine; UsageError where it is neither of the two."""
    machine = platform.machine()
    for arch in ARCHES.values():
        if arch.machine == machine:
            return arch
    raise UsageError(f"this machine is {machine}: sandbox-build runs on x86_64 and aarch64")
