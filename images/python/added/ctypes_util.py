# Added by sandbox-build: in the jail no program can be started, neither ldconfig nor a compiler.
import os


def _findSoname_ldconfig(name: str) -> str | None:
    """The soname of the first library called `name` that the loader's cache has."""
    try:
        with open("/etc/ld.so.cache", "rb") as file:  # noqa: PTH123 - nothing more is imported for this
            cache = file.read()
    except OSError:
        return None
    # The number of entries is at 20. Each is 24 bytes long, from 48 on, with the place of its soname at 4.
    for at in range(52, 52 + 24 * int.from_bytes(cache[20:24], "little"), 24):
        start = int.from_bytes(cache[at : at + 4], "little")
        soname = os.fsdecode(cache[start : cache.find(b"\0", start)])
        if soname.startswith(f"lib{name}."):
            return soname
    return None


def _findLib_gcc(_name: str) -> None:
    return None


_findLib_ld = _findLib_gcc
