"""Where packages come from: the user's own settings for uv, a mirror from config.yaml, a folder of wheels.

uv is cut off from everything else: no project, and no setting that would change what it does with them.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from builder.errors import ConfigError

_INDEX_KEYS = (
    *("index", "index-url", "extra-index-url", "find-links", "no-index", "index-strategy"),
    *("keyring-provider", "allow-insecure-host", "native-tls", "system-certs"),
)
"""The settings of uv.toml that say where packages are and how to get at them.

https://docs.astral.sh/uv/reference/settings/
"""
_INDEX_VARIABLES = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|INDEX_STRATEGY|INDEX_\w+_(USERNAME|PASSWORD))"
)
_KEPT_VARIABLES = re.compile(
    # The network, its certificates and passwords; where uv keeps what it fetched.
    r"UV_(KEYRING_PROVIDER|INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS|HTTP_\w+|REQUEST_TIMEOUT|CACHE_DIR|CONCURRENT_\w+)"
    r"|(HTTPS?|ALL|NO)_PROXY|(https?|all|no)_proxy|SSL_CERT_(FILE|DIR)|SSL_CLIENT_CERT|NETRC"
    r"|PATH|HOME|LANG|TMPDIR|XDG_\w+"
)


@dataclass(frozen=True)
class Sources:
    """Where packages may come from."""

    wheelhouse: Path | None = None
    """A folder of wheels that is looked into, too."""
    index: bool = True
    """Whether there is anything besides the folder."""
    url: str | None = field(default=None, repr=False)
    """The index in place of the user's own."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)

    @property
    def options(self) -> tuple[str, ...]:
        """uv's options."""
        folder = ("--find-links", str(self.wheelhouse.absolute())) if self.wheelhouse else ()
        return (*folder, *(() if self.index else ("--no-index", "--offline")))

    @property
    def environment(self) -> dict[str, str]:
        """uv's environment. The mirror's URL stands here alone: command lines can be read by everyone."""
        kept = {name: value for name, value in self.environ.items() if _KEPT_VARIABLES.fullmatch(name)}
        # Never a download of an interpreter, which would be none of the base's.
        kept["UV_PYTHON_DOWNLOADS"] = "never"
        if self.index and self.url is not None:
            kept["UV_DEFAULT_INDEX"] = self.url
        elif self.index:
            kept |= {name: value for name, value in self.environ.items() if _INDEX_VARIABLES.fullmatch(name)}
        return kept

    @property
    def settings(self) -> dict[str, Any]:
        """What the user's uv.toml says of indexes; ConfigError where it cannot be read."""
        if not self.index or self.url is not None:
            return {}
        found: dict[str, Any] = {}
        for path in _uv_files(self.environ):
            try:
                data = tomllib.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise ConfigError([(f"{path}: {error}", "uv's own settings cannot be read")]) from None
            # In uv, [pip] counts before the top level, the user's file before the machine's.
            for level in (data.get("pip", {}), data):
                for key in _INDEX_KEYS:
                    if key in level:
                        found.setdefault(key, level[key])
        return found

    def credentials(self, url: str) -> tuple[str, str] | None:
        """User and password for `url`, where an index at the same place has them in its own URL."""
        place = _place(url)
        for index, named in self._index_urls():
            parts = urlsplit(index)
            if _place(index) != place:
                continue
            if parts.username is not None:
                return unquote(parts.username), unquote(parts.password or "")
            if named in self.environ:
                password = self.environ.get(named.replace("USERNAME", "PASSWORD"), "")
                return self.environ[named], password
        return None

    def _index_urls(self) -> Iterator[tuple[str, str]]:
        """Each index's URL, and the variable that may hold its user (uv: UV_INDEX_NAME_USERNAME)."""
        if self.url is not None:
            yield self.url, ""
            return
        texts = [self.environ.get(f"UV_{name}", "") for name in ("DEFAULT_INDEX", "INDEX_URL")]
        for name in ("INDEX", "EXTRA_INDEX_URL"):
            texts += self.environ.get(f"UV_{name}", "").split()
        settings = self.settings
        texts.append(settings.get("index-url", ""))
        texts += settings.get("extra-index-url", [])
        for text in texts:
            name, equals, url = text.partition("=")
            if equals and re.fullmatch(r"[\w-]+", name):
                yield url, _user_variable(name)
            elif text:
                yield text, ""
        for table in settings.get("index", []):
            yield table.get("url", ""), _user_variable(table.get("name", ""))


def to_toml(settings: Mapping[str, Any]) -> str:
    """Settings as TOML."""
    return "".join(f"{json.dumps(key)} = {_toml(value)}\n" for key, value in settings.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # JSON's numbers, booleans and strings are TOML's, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _uv_files(environ: Mapping[str, str]) -> list[Path]:
    """Where uv looks for settings besides a project, the first one first."""
    if environ.get("UV_CONFIG_FILE"):
        return [Path(environ["UV_CONFIG_FILE"])]
    if environ.get("UV_NO_CONFIG"):
        return []
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config")
    system = [Path(folder) for folder in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if folder]
    return [folder / "uv" / "uv.toml" for folder in (home, *system, Path("/etc"))]


def _user_variable(name: str) -> str:
    return f"UV_INDEX_{re.sub(r'[^A-Z0-9]', '_', name.upper())}_USERNAME" if name else ""


def _place(url: str) -> tuple[str, str | None, int | None]:
    """What a password is good for: scheme, host and port."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None, None
