"""Package URLs: https://github.com/package-url/purl-spec."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote


def purl(kind: str, *names: str, version: str = "", qualifiers: Mapping[str, str] | None = None) -> str:
    """pkg:KIND/NAMES@VERSION?QUALIFIERS, whose qualifiers are sorted; empty ones are left out."""
    path = "/".join(_quoted(name) for name in names)
    pairs = [f"{key}={_quoted(value)}" for key, value in sorted((qualifiers or {}).items()) if value]
    at = f"@{_quoted(version)}" if version else ""
    return f"pkg:{kind}/{path}{at}{'?' if pairs else ''}{'&'.join(pairs)}"


def deb_purl(name: str, version: str, arch: str, source: str, os_release: Mapping[str, str]) -> str:
    """A package of Debian, or of what its os-release says it is.

    `source` is NAME, or NAME VERSION. Debian's security tracker goes by source packages, and scanners look
    for them in `upstream`.
    """
    vendor = os_release.get("id", "debian")
    upstream = "" if source in ("", name) else source.replace(" ", "@")
    qualifiers = {"arch": arch, "distro": _distro(os_release), "upstream": upstream}
    return purl("deb", vendor, name, version=version, qualifiers=qualifiers)


def apk_purl(name: str, version: str, arch: str, os_release: Mapping[str, str]) -> str:
    """A package of Alpine, Wolfi or another that has apk."""
    vendor = os_release.get("id", "alpine")
    return purl(
        "apk", vendor, name, version=version, qualifiers={"arch": arch, "distro": _distro(os_release)}
    )


def pypi_purl(name: str, version: str) -> str:
    return purl("pypi", name.replace("_", "-").lower(), version=version)


def _distro(os_release: Mapping[str, str]) -> str:
    """ID-VERSION, as debian-13; the codename where there is no version, as in Debian's testing."""
    version = os_release.get("version_id")
    if version:
        return f"{os_release.get('id', 'debian')}-{version}"
    return os_release.get("version_codename", "")


def _quoted(text: str) -> str:
    return quote(text, safe=":")
