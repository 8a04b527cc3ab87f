"""What several files of unit tests ask of the config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from builder.config import load_config
from builder.errors import ConfigError

Refused = Callable[..., list[tuple[str, str | None]]]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """The problems of a config.yaml that must not load."""
    monkeypatch.chdir(tmp_path)

    def problems(text: str, environ: Mapping[str, str] | None = None) -> list[tuple[str, str | None]]:
        Path("config.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(Path("config.yaml"), environ or {})
        return caught.value.problems

    return problems
