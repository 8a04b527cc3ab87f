"""A mirror's password: apt gets it, nobody else does."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from builder.mirror import open_mirror


def test_a_password_goes_into_a_file_of_its_own() -> None:
    """Decoded, with the scheme that apt wants for http; not on the command line, and gone afterwards."""
    with open_mirror("http://us%20er:p%40ss@host.example:8080/debian") as mirror:
        (option,) = mirror.options
        path = Path(option.split('"')[1])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text() == "machine http://host.example:8080 login us er password p@ss\n"
        shown = (mirror.place, *mirror.arguments)
        assert shown == ("the mirror http://host.example:8080/debian", "http://host.example:8080/debian")
    assert not path.exists()


@pytest.mark.parametrize("url", ["http://host.example/debian", "file:///srv/debian"])
def test_a_mirror_without_one_is_taken_as_it_is(url: str) -> None:
    with open_mirror(url) as mirror:
        assert (mirror.options, mirror.arguments, mirror.place) == ((), (url,), f"the mirror {url}")


def test_no_mirror_is_mmdebstraps_own() -> None:
    with open_mirror(None) as mirror:
        assert (mirror.options, mirror.arguments, mirror.place) == ((), (), "Debian's mirror")
