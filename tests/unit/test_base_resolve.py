"""The date that a selection of packages has: the newest one of the mirror's Release files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from builder.base.resolve import published
from builder.errors import BuildError

OLD = "Origin: Debian\nDate: Sat, 01 Feb 2025 00:00:00 UTC\n"
SIGNED = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nDate: {}\n"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's zone is another one than UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ-5")
        time.tzset()
        yield
    time.tzset()


def releases(folder: Path, texts: Sequence[str]) -> list[Path]:
    paths = [folder / f"{index}_InRelease" for index in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "date",
    [
        "Sat, 01 Mar 2025 10:00:00 UTC",
        "Sat, 01 Mar 2025 10:00:00 GMT",
        "Sat, 01 Mar 2025 12:00:00 +0200",
        "Sat, 01 Mar 2025 10:00:00",
        "Sat, 01 Mar 2025 10:00:00 -0000",
    ],
)
def test_the_newest_date_is_taken(tmp_path: Path, date: str) -> None:
    """In UTC, which is also meant where no zone is named, whatever this machine's is."""
    paths = releases(tmp_path, [OLD, SIGNED.format(date), "Origin: undated\n"])
    assert published(paths, "debian:trixie") == "20250301T100000Z"


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["Origin: undated\n"],
        ["Date:\n"],
        ["Date: yesterday\n"],
        ["Date: Sat, 41 Mar 2025 00:00:00 UTC\n"],
        ["Date: Fri, 31 Dec 9999 23:59:59 -2359\n"],
        [OLD, "Date: yesterday\n"],
    ],
)
def test_a_mirror_without_a_date_is_refused(tmp_path: Path, texts: Sequence[str]) -> None:
    """An archive of the past could not be asked for its packages later."""
    with pytest.raises(BuildError, match=r"^debian:trixie: .*Date") as caught:
        published(releases(tmp_path, texts), "debian:trixie")
    assert "\n" not in caught.value.message
    assert "base_mirror" in str(caught.value.hint)
