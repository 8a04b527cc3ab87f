"""Compression of layers: other programs read it, and the bytes depend on the content alone."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import zstandard

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


WORDS = [random.Random(seed).randbytes(1 + seed % 9) for seed in range(500)]
LARGE = b"".join(random.Random(2).choices(WORDS, k=40_000)) * 360
"""More than 64 MiB, in which gzip has another level."""

PINNED = {
    ("gzip", "several"): "a310ebafdea3ba31cebdb481eb9797a1237ff7f7cda1ff5da52748365f35ff96",
    ("gzip", "large"): "d569afa948da72f7fb6a256960efb19e47ac5bc72a60962c852b770f249877b7",
    ("zstd", "words"): "f6daa7cd1cc5d45dedc6316d34012a3b0cf27a3f7bc5b736aa2fef01239dcf2e",
    ("zstd", "several"): "1dc13bfbe4b05b78b9f4371423413816d7f3e8a7d21971d5d47b7c370b71e6d0",
}


@pytest.mark.parametrize(("name", "content"), PINNED)
def test_bytes_are_pinned(name: str, content: str, pack: Pack) -> None:
    """They are part of every image's digest: whoever changes them changes all of these."""
    text = {"several": CONTENT, "large": LARGE, "words": LARGE[:3_000_000]}[content]
    assert hashlib.sha256(pack(name, text)).hexdigest() == PINNED[name, content]


def test_zstd_takes_memory_by_the_layers_size(tmp_path: Path) -> None:
    """Eight small layers side by side must fit where one large one does."""
    (tmp_path / "layer.tar").write_bytes(CONTENT[:4_000_000])
    program = (
        "import sys; from pathlib import Path; from builder.compression import COMPRESSIONS\n"
        "list(COMPRESSIONS['zstd'].pack(Path(sys.argv[1])))\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(status.partition('VmHWM:')[2].split()[0])\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "layer.tar")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert int(done.stdout) < 300 << 10  # KiB


def test_a_large_layer_takes_no_more_memory_from_who_unpacks_it(tmp_path: Path) -> None:
    """The window of a zstd frame is in its header; left to the level it would be 128 MiB for this one."""
    layer = tmp_path / "layer.tar"
    layer.touch()
    os.truncate(layer, 200 << 20)
    frame = b"".join(COMPRESSIONS["zstd"].pack(layer))
    assert zstandard.get_frame_parameters(frame).window_size == 32 << 20
