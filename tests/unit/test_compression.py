"""Compression of layers: other programs read it, and the bytes depend on the content alone."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
from collections.abc import Sequence

import pytest

from builder.compression import COMPRESSIONS, compression_of
from builder.errors import BuildError

# More than one chunk of either, not all of it alike, and not a round number.
CONTENT = random.Random(1).randbytes(100_000) + b"abcdefgh" * 1_300_001
SIZES = {"empty": b"", "a byte": b"x", "a chunk": b"y" * (4 << 20), "several": CONTENT}


def packed(name: str, content: bytes) -> bytes:
    return b"".join(COMPRESSIONS[name].pack(io.BytesIO(content)))


@pytest.mark.parametrize("name", COMPRESSIONS)
@pytest.mark.parametrize("content", SIZES.values(), ids=SIZES)
def test_round_trip(name: str, content: bytes) -> None:
    """What was packed comes out again, through the type that the layer has."""
    blob = packed(name, content)
    way = compression_of(COMPRESSIONS[name].media_type)
    assert way.unpack(io.BytesIO(blob)).read() == content


@pytest.mark.parametrize(("name", "program"), [("gzip", ["gzip", "-dc"]), ("zstd", ["zstd", "-dc"])])
def test_other_programs_read_it(name: str, program: Sequence[str]) -> None:
    """gzip and zstd themselves, whatever the number of members or frames."""
    done = subprocess.run(program, input=packed(name, CONTENT), capture_output=True, check=True)
    assert done.stdout == CONTENT


@pytest.mark.parametrize("name", COMPRESSIONS)
@pytest.mark.parametrize("processors", [1, 2, 7])
def test_processors_do_not_change_the_bytes(
    name: str, processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with more of them makes the same image."""
    here = packed(name, CONTENT)
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert packed(name, CONTENT) == here


def test_no_name_and_no_time_in_gzip() -> None:
    """The header of RFC 1952 has flags 0 and time 0."""
    assert packed("gzip", CONTENT)[:8] == b"\x1f\x8b\x08" + bytes(5)
    assert gzip.decompress(packed("gzip", CONTENT)) == CONTENT


def test_unknown_type() -> None:
    """A layer that is compressed as we never do is refused by its type."""
    with pytest.raises(BuildError, match="never writes"):
        compression_of("application/vnd.oci.image.layer.v1.tar+lz4")
