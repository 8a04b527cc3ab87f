"""The small files that a root needs and that a base may lack, since nobody configured its packages."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from builder.tree.root import Root

MOUNT_POINTS = ("/dev", "/proc", "/tmp")  # noqa: S108 - a path in the jail
"""Empty folders: a read-only root cannot grow them later."""

UTC = "/usr/share/zoneinfo/UTC"
LOCALTIME = "/etc/localtime"

TEXTS = {
    # 65534 is what the kernel shows for an owner that it cannot map into a user namespace. The uids that
    # runs get are a range of thousands: they have no names.
    "/etc/passwd": "root:x:0:0:root:/:/nonexistent\nnobody:x:65534:65534:nobody:/:/nonexistent\n",
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
}
"""What getpwuid, getaddrinfo and getservbyname read. The base's own only where config.yaml lists them: the
base's users are not the jail's."""

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""Debian's file of all certificates, which update-ca-certificates writes; the name that most programs know."""

_CERTIFICATES = "/usr/share/ca-certificates/mozilla"
_OPENSSLDIR = re.compile(rb'OPENSSLDIR: "(/[^"\0]+)"')


def certificate_bundle(root: Root) -> bytes | None:
    """All certificates that the base would trust had update-ca-certificates run; None where it has none."""
    names = [name for name in root.names(_CERTIFICATES) if name.endswith(".crt")]
    if not names:
        return None
    folder = root.resolve(_CERTIFICATES).path
    texts = [root.host(posixpath.join(folder, name)).read_bytes() for name in names]
    return b"".join(text if text.endswith(b"\n") else text + b"\n" for text in texts)


def openssl_folders(root: Root, files: Iterable[str]) -> list[str]:
    """The folders in which the copies of OpenSSL among `files` look for cert.pem.

    libcrypto carries the folder's name as the text that `openssl version -d` prints.
    """
    folders = set()
    for jail_path in files:
        if posixpath.basename(jail_path).startswith("libcrypto"):
            folders.update(_OPENSSLDIR.findall(root.host(jail_path).read_bytes()))
    return sorted(folder.decode(errors="surrogateescape") for folder in folders)
