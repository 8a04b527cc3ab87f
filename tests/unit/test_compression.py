"""Compression of layers: other programs read it, and the bytes depend on the content alone."""

from __future__ import annotations

import io
import os
import random
import subprocess
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from builder.compression import COMPRESSIONS, compression_of
from builder.errors import BuildError

# More than one chunk, not all of it alike, and not a round number.
CONTENT = random.Random(1).randbytes(100_000) + b"abcdefgh" * 1_300_001
Pack = Callable[[str, bytes], bytes]
SIZES = {"empty": b"", "a byte": b"x", "a chunk": b"y" * (4 << 20), "several": CONTENT}


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Compresses a text, by the name of the way."""

    def packed(name: str, content: bytes) -> bytes:
        (tmp_path / "layer.tar").write_bytes(content)
        return b"".join(COMPRESSIONS[name].pack(tmp_path / "layer.tar"))

    return packed


@pytest.mark.parametrize("name", COMPRESSIONS)
@pytest.mark.parametrize("content", SIZES.values(), ids=SIZES)
def test_round_trip(name: str, content: bytes, pack: Pack) -> None:
    """What was packed comes out again, through the type that the layer has."""
    blob = pack(name, content)
    way = compression_of(COMPRESSIONS[name].media_type)
    assert way.unpack(io.BytesIO(blob)).read() == content


@pytest.mark.parametrize(("name", "program"), [("gzip", ["gzip", "-dc"]), ("zstd", ["zstd", "-dc"])])
def test_other_programs_read_it(name: str, program: Sequence[str], pack: Pack) -> None:
    """gzip and zstd themselves, whatever the number of members or frames."""
    done = subprocess.run(program, input=pack(name, CONTENT), capture_output=True, check=True)
    assert done.stdout == CONTENT


@pytest.mark.parametrize("name", COMPRESSIONS)
@pytest.mark.parametrize("processors", [1, 2, 7])
def test_processors_do_not_change_the_bytes(
    name: str, processors: int, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with more of them makes the same image."""
    here = pack(name, CONTENT)
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert pack(name, CONTENT) == here


def test_one_member_without_name_and_time(pack: Pack) -> None:
    """The header of RFC 1952 has flags 0 and time 0, and nothing follows the first member."""
    blob = pack("gzip", CONTENT)
    assert blob[:8] == b"\x1f\x8b\x08" + bytes(5)
    member = zlib.decompressobj(wbits=31)
    assert member.decompress(blob) == CONTENT
    assert (member.eof, member.unused_data) == (True, b"")


def test_unknown_type() -> None:
    """A layer that is compressed as we never do is refused by its type."""
    with pytest.raises(BuildError, match="never writes"):
        compression_of("application/vnd.oci.image.layer.v1.tar+lz4")
