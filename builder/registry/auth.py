"""How a registry is told who asks: HTTP's Basic scheme, or a token that a server gives for it.

https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit
from urllib.request import parse_http_list, parse_keqv_list

from builder.credentials import Credentials
from builder.errors import RegistryError
from builder.registry.failures import Answer, refusal, said
from builder.registry.trust import is_safe, origin

Send = Callable[..., Answer]
"""Transport.send: (method, url, *, headers, body)."""


class Authorization:
    """What one registry wants to be told with each request. Several threads may ask at once."""

    def __init__(
        self, host: str, repository: str, actions: str, credentials: Credentials | None, send: Send
    ) -> None:
        self.credentials = credentials
        self._host = host
        self._repository = repository
        self._actions = actions
        self._send = send
        self._lock = threading.Lock()
        self._header: str | None = None

    def header(self, url: str, base: str) -> str | None:
        """The Authorization header of a request to `url`, where that is the registry at `base`.

        A registry may have blobs uploaded to another host: our credentials are none of its business.
        """
        return self._header if origin(url) == origin(base) else None

    def renew(self, answer: Answer) -> None:
        """Makes what the challenge of a 401 asks for, for the requests to come.

        A token expires while a large image is on its way: each thread learns of it, and one gets another.
        """
        with self._lock:
            if answer.authorization != self._header:
                return
            kind, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
            if kind.lower() == "bearer":
                self._header = f"Bearer {self._fetch_token(_challenge(rest))}"
            elif self.credentials is None or self.credentials.identity_token:
                raise refusal(answer, self._host, self._repository, self.credentials)
            else:
                self._header = self.credentials.basic

    def _fetch_token(self, challenge: dict[str, str]) -> str:
        realm = challenge.get("realm", "")
        if not is_safe(realm):
            raise RegistryError(f"{self._host}: wants credentials sent to {said(realm)}, without encryption")
        asked = {
            "service": challenge.get("service", ""),
            "scope": challenge.get("scope") or f"repository:{self._repository}:{self._actions}",
        }
        credentials = self.credentials
        if credentials is not None and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.secret,
                "client_id": "sandbox-build",
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._send("POST", realm, headers=headers, body=urlencode(asked | form).encode())
        else:
            headers = {"Authorization": credentials.basic} if credentials is not None else {}
            join = "&" if urlsplit(realm).query else "?"
            answer = self._send("GET", f"{realm}{join}{urlencode(asked)}", headers=headers)
        if answer.status != 200:
            raise refusal(answer, self._host, self._repository, credentials)
        try:
            found = json.loads(answer.content)
            return str(found.get("token") or found["access_token"])
        except (ValueError, KeyError, AttributeError) as error:
            raise RegistryError(f"{self._host}: its token server gave no token") from error


def _challenge(text: str) -> dict[str, str]:
    """The parameters of a WWW-Authenticate header."""
    return parse_keqv_list([part for part in parse_http_list(text) if "=" in part])
