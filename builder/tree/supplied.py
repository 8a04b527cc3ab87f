"""The small files that a root needs and that a base may lack, since nobody configured its packages."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from builder.tree.root import Root
from builder.tree.selection import Selection

MOUNT_POINTS = ("/dev", "/proc", "/tmp")  # noqa: S108 - a path in the jail
"""Empty folders: a read-only root cannot grow them later."""

UTC = "/usr/share/zoneinfo/UTC"
LOCALTIME = "/etc/localtime"

TEXTS = {
    # 65534 is what the kernel shows for an owner that it cannot map into a user namespace. The uids that
    # runs get are a range of thousands: they have no names.
    "/etc/passwd": "root:x:0:0:root:/:/nonexistent\nnobody:x:65534:65534:nobody:/:/nonexistent\n",
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "/run/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/run/resolv.conf": "",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n",
}
"""What getpwuid, getaddrinfo and getservbyname read. Users and nsswitch.conf are the base's own only where
config.yaml lists them: the base's users are not the jail's."""

NAME_SERVICE = {"/etc/hosts": "/run/hosts", "/etc/resolv.conf": "/run/resolv.conf"}
"""Links to what the running container's engine, or the runtime, puts there (runtime/nameservice.py). /run may
be mounted anew where the root is read-only."""

OF_THE_BASE = ("/run/systemd/resolve/stub-resolv.conf", "/run/resolvconf/resolv.conf")
"""Where a base's /etc/resolv.conf may lead: the name servers of whoever built are nobody's else."""

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""Debian's file of all certificates, written by update-ca-certificates; the name that most programs know."""

PATHS = frozenset({*TEXTS, *NAME_SERVICE, BUNDLE, LOCALTIME})
"""What the tree has even where the base does not."""

_CERTIFICATES = "/usr/share/ca-certificates/mozilla"
_OPENSSLDIR = re.compile(rb'OPENSSLDIR: "(/[^"\0]+)"')


def add_supplied(selection: Selection, root: Root) -> dict[str, bytes]:
    """Adds what the base lacks to the selection; returns the texts of the files that are not the base's."""
    texts = {}
    for folder in MOUNT_POINTS:
        selection.add_directory(folder)
    for jail_path in (*NAME_SERVICE, *NAME_SERVICE.values(), *OF_THE_BASE):
        selection.discard(jail_path)
    for jail_path, text in TEXTS.items():
        placed = selection.place(jail_path)
        if not selection.holds(placed):
            texts[placed] = text.encode()
    for link, target in NAME_SERVICE.items():
        selection.add_link(selection.place(link), selection.place(target))
    texts |= _add_certificates(selection, root)
    zone, localtime = root.real(UTC), selection.place(LOCALTIME)
    if zone in selection.files and not selection.holds(localtime):
        selection.add_link(localtime, zone)
    return texts


def _add_certificates(selection: Selection, root: Root) -> dict[str, bytes]:
    """The bundle, and cert.pem wherever a copy of OpenSSL in the selection looks for it."""
    texts = {}
    bundle = selection.place(BUNDLE)
    certificates = _certificates(root)
    if not selection.holds(bundle) and certificates:
        texts[bundle] = certificates
    for folder in _openssl_folders(root, selection.files):
        wanted = posixpath.join(folder, "cert.pem")
        if root.is_file(wanted):
            selection.add(wanted)
        elif texts or selection.holds(bundle):
            selection.add_link(selection.place(wanted), bundle)
        else:
            message = "HTTPS will trust nobody: the base has no certificates"
            selection.warnings.append(f"{message} ({wanted}, {BUNDLE}, {_CERTIFICATES})")
    return texts


def certificate_files(root: Root) -> list[str]:
    """The files of the base's single certificates, as jail paths without links."""
    names = [name for name in root.names(_CERTIFICATES) if name.endswith(".crt")]
    return [root.resolve(posixpath.join(_CERTIFICATES, name)).path for name in names]


def _certificates(root: Root) -> bytes:
    """All certificates that the base would trust had update-ca-certificates run."""
    texts = [root.host(path).read_bytes() for path in certificate_files(root)]
    return b"".join(text if text.endswith(b"\n") else text + b"\n" for text in texts)


def _openssl_folders(root: Root, files: Iterable[str]) -> list[str]:
    """The folders in which the copies of OpenSSL among `files` look for cert.pem.

    libcrypto carries the folder's name as the text that `openssl version -d` prints.
    """
    folders: set[bytes] = set()
    for jail_path in files:
        if posixpath.basename(jail_path).startswith("libcrypto"):
            folders.update(_OPENSSLDIR.findall(root.host(jail_path).read_bytes()))
    return sorted(folder.decode(errors="surrogateescape") for folder in folders)
