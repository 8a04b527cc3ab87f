"""Which servers are asked, and how they are believed to be who they say: Docker's own rules."""

from __future__ import annotations

import ipaddress
import os
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from builder.errors import RegistryError

CERTIFICATE_FOLDERS = (Path("/etc/docker/certs.d"), Path("~/.config/docker/certs.d"))
"""HOST[:PORT]/*.crt below them are certificate authorities of that registry alone; *.cert with *.key prove
who we are. The second is rootless Docker's. https://docs.docker.com/engine/security/certificates/"""


def is_loopback(host: str) -> bool:
    """Whether HOST[:PORT] is this machine: no other may be spoken to without TLS."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_safe(url: str) -> bool:
    """Whether nobody between here and there can read or change what is sent."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.netloc))


def origin(url: str) -> tuple[str, str]:
    """What two URLs of the same server share: the scheme too, or credentials could go out in the clear."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def new_session(host: str) -> requests.Session:
    """A session that trusts public authorities, REQUESTS_CA_BUNDLE, and for `host` those of Docker's folder.

    It follows no redirect, and asks this machine without a proxy, as Docker does: what is not encrypted must
    not leave it. RegistryError where a file of Docker's folder cannot be read.
    """
    session = _Session()
    if (context := _docker_context(host)) is not None:
        session.mount(f"https://{host}/", _Adapter(context))
    return session


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: whoever asks also decides where else to ask, and with which credentials."""

    def merge_environment_settings(self, url: str | bytes | None, *args: Any) -> Any:
        found = super().merge_environment_settings(url, *args)
        return {**found, "proxies": {}} if is_loopback(urlsplit(str(url)).netloc) else found


class _Adapter(HTTPAdapter):
    """Connections of one TLS context; requests adds its own authorities to it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **options)


def _docker_context(host: str) -> ssl.SSLContext | None:
    """The TLS context that Docker's folders for `host` come to; None where there is none."""
    # Where nobody says where home is, `~` stays, and nothing is found there.
    folders = [Path(os.path.expanduser(folder), host) for folder in CERTIFICATE_FOLDERS]  # noqa: PTH111 - it would raise
    files = [file for folder in folders for kind in ("*.crt", "*.cert") for file in sorted(folder.glob(kind))]
    if not files:
        return None
    context = ssl.create_default_context()
    for file in files:
        try:
            if file.suffix == ".crt":
                context.load_verify_locations(file)
            else:
                context.load_cert_chain(file, file.with_suffix(".key"))
        except OSError as error:  # ssl.SSLError is one too
            reason = error.strerror or str(error)
            raise RegistryError(f"{host}: {file}: no certificate to use: {reason}") from error
    return context
