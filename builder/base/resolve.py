"""Names of Debian packages -> exactly which ones, with all that they depend on: as apt chooses them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote

from builder.apt import Lists, open_lists, stanzas
from builder.arch import Arch
from builder.base.debian_package import DebianPackage, Selection
from builder.errors import BuildError
from builder.progress import Progress

_UNKNOWN_PACKAGE = re.compile(r"E: (?:Unable to locate package |Package ')([^\s']+)")
_DATE = re.compile(r"^Date: (.+)$", re.MULTILINE)
_URI = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+)_(?P<version>\S+)_(?P<arch>\S+)\.deb \d+ .*")


def resolve(
    suite: str, names: Sequence[str], arch: Arch, mirror: str | None, progress: Progress
) -> Selection:
    """What apt would install today of `names` in `suite`, on a machine that has nothing yet.

    From lists that Debian signed. ToolMissing (exit 3) without mmdebstrap; BuildError where Debian has no
    such package, or the mirror cannot be reached or has no date.
    """
    what = f"debian:{suite} for {arch.name}"
    with open_lists(suite, arch, mirror, progress) as lists:
        try:
            printed = lists.ask("apt-get", "-qq", "--print-uris", "install", *names)
        except BuildError as error:
            if unknown := _UNKNOWN_PACKAGE.search(error.message):
                message = f"{what}: Debian has no package {unknown[1]}"
                hint = f"look the name up: apt-cache search {unknown[1]}; base_packages has the names"
                raise BuildError(message, hint) from None
            raise BuildError(f"{what}: these packages do not go together: {error.message}") from None
        packages = tuple(sorted(_packages(lists, printed.splitlines(), what)))
        return Selection(packages, published(lists.folder.glob("*Release"), what))


def _packages(lists: Lists, lines: Sequence[str], what: str) -> Iterable[DebianPackage]:
    """The package of each line that apt prints: 'URI' FILE SIZE HASH."""
    chosen = [match for line in lines if (match := _URI.fullmatch(line))]
    if len(chosen) != len(lines) or not chosen:
        raise BuildError(f"{what}: what apt-get prints was not understood")
    names = [f"{match['file']}={unquote(match['version'])}" for match in chosen]
    uris = [match["uri"] for match in chosen]
    found: dict[str, DebianPackage] = {}
    for fields in stanzas(lists.ask("apt-cache", "show", *names)):
        # Several archives may have one version, each in a file of its own.
        path = f"/{fields['Filename'].removeprefix('./')}"
        uri = next((uri for uri in uris if uri.endswith(path) or unquote(uri).endswith(path)), None)
        if uri is not None and uri not in found:
            found[uri] = _package(fields, what)
    if len(found) != len(chosen):
        raise BuildError(f"{what}: apt-cache knows {len(found)} of {len(chosen)} packages")
    return found.values()


def _package(fields: dict[str, str], what: str) -> DebianPackage:
    """The package that a stanza of a list describes."""
    source = fields.get("Source", fields["Package"]).partition(" ")[0]
    path = fields["Filename"].removeprefix("./")
    names = (fields["Package"], fields["Version"], fields["Architecture"], source)
    try:
        return DebianPackage.parse(" ".join((*names, fields["SHA256"], fields["Size"], path)))
    except (KeyError, ValueError) as error:
        raise BuildError(f"{what}: the list of packages says of {fields['Package']}: {error}") from None


def published(releases: Iterable[Path], what: str) -> str:
    """The newest date that the Release files have, as in Selection; BuildError where there is none."""
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in releases)
    try:
        newest = max(_moment(found[1]) for text in texts if (found := _DATE.search(text)))
    except (ValueError, OverflowError) as error:
        raise BuildError(
            f"{what}: the mirror has no Release files with a Date that can be read",
            "each of Debian's has one: name a whole copy of its archive, base_mirror",
        ) from error
    return newest.strftime("%Y%m%dT%H%M%SZ")


def _moment(date: str) -> datetime:
    """In UTC, which is also meant where no zone is named."""
    moment = parsedate_to_datetime(date)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
