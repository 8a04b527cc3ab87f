"""dpkg's database of what is installed: what a package of each .deb would have left in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

STATUS = "var/lib/dpkg/status"
INFO = "var/lib/dpkg/info"
FORMAT = {"format": "1\n"}
"""The file in INFO without which dpkg looks for no list that has the architecture in its name."""
_SYNOPSIS = "Description"


def status_text(packages: Iterable[Mapping[str, str]]) -> str:
    """The status file for packages with these control fields: sorted, all of them installed."""
    in_order = sorted(packages, key=lambda fields: (fields["Package"], fields["Architecture"]))
    return "\n".join("".join(f"{key}: {value}\n" for key, value in _stanza(one).items()) for one in in_order)


def _stanza(fields: Mapping[str, str]) -> dict[str, str]:
    """As dpkg has it, but for the long description."""
    first = {"Package": fields["Package"], "Status": "install ok installed"}
    last = {_SYNOPSIS: fields.get(_SYNOPSIS, "").partition("\n")[0]}
    return {**first, **{key: value for key, value in fields.items() if key not in (*first, *last)}, **last}


def list_name(fields: Mapping[str, str]) -> str:
    """The file that lists a package's paths: with its architecture where several may be installed at once."""
    same = fields.get("Multi-Arch") == "same"
    return f"{fields['Package']}:{fields['Architecture']}.list" if same else f"{fields['Package']}.list"


def list_text(paths: Sequence[str]) -> str:
    """Its text."""
    return "".join(f"{path}\n" for path in paths)
