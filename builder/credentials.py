"""The credentials that Docker keeps for registries: in its config file, or with a credential helper."""

from __future__ import annotations

import base64
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import docker.auth
from docker.errors import DockerException
from docker.utils.config import find_config_file

from builder.errors import RegistryError


@dataclass(frozen=True)
class Credentials:
    """What a registry's user proves himself with."""

    user: str
    secret: str
    identity_token: bool = False
    """`secret` is a refresh token, to be traded for an access token; `user` has no meaning then."""

    @property
    def basic(self) -> str:
        """The Authorization header of HTTP's Basic scheme."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def find_credentials(host: str) -> Credentials | None:
    """What Docker's config file or its credential helper has for `host`; None where they have nothing."""
    try:
        _check_config(host)
        with warnings.catch_warnings():
            # A missing helper is warned about, and then raised.
            warnings.simplefilter("ignore")
            found: dict[str, str] | None = docker.auth.load_config().resolve_authconfig(host)
    except (DockerException, OSError, ValueError) as error:
        raise RegistryError(
            f"{host}: Docker's credentials cannot be read: {error}", f"docker login {host}"
        ) from error
    # The config file's entries and those of helpers differ in case.
    entry = {name.lower(): value for name, value in (found or {}).items()}
    if token := entry.get("identitytoken"):
        return Credentials("", token, identity_token=True)
    if user := entry.get("username"):
        return Credentials(user, entry.get("password") or "")
    return None


def _check_config(host: str) -> None:
    """RegistryError for a config.json that is no JSON: the SDK finds nothing in it, and says nothing."""
    path = Path(str(find_config_file() or ""))
    if path.name != "config.json":  # there is none, or the older .dockercfg
        return
    try:
        if isinstance(json.loads(path.read_bytes()), dict):
            return
        reason = "no object is in it"
    except (ValueError, RecursionError) as error:
        reason = f"it is no JSON: {error}"
    raise RegistryError(f"{host}: Docker's credentials cannot be read: {path}: {reason}", f"mend {path}")
