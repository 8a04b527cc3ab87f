"""The grammar of single values: what is taken, as what, and what is refused."""

from __future__ import annotations

import pytest
from pydantic_core import PydanticCustomError

from builder import config_values as values
from builder.config import Base, parse_base


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (1073741824, 1 << 30),
        ("4096", 4096),
        ("512B", 512),
        ("512KiB", 512 << 10),
        ("64MiB", 64 << 20),
        ("64M", 64 << 20),
        ("64m", 64 << 20),
        ("1Gi", 1 << 30),
        ("1 GiB", 1 << 30),
        ("2T", 2 << 40),
    ],
)
def test_size(text: object, size: int) -> None:
    """A size is bytes, or a whole number with a binary unit, in either case."""
    assert values.size_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lots",
        "-1",
        -1,
        "1.5GiB",
        "1PiB",
        "1024TiB",
        1 << 50,
        "9" * 400,
        True,
        1.5,
        None,
        [1],
        "1GB",
        "1kb",
    ],
)
def test_not_a_size(text: object) -> None:
    """Signs, fractions, unknown units, more than memory can be, and the ambiguous MB are refused."""
    with pytest.raises(ValueError, match=r"not a size|out of range|may mean two things"):
        values.size_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800),
        ("1h30m", 5400),
        ("90s", 90),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("250ms", 0.25),
        ("1m0.5s", 60.5),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    """A duration is read as Go's time.ParseDuration reads it, and written so that it reads the same."""
    assert values.duration_s(text) == pytest.approx(seconds)
    assert values.duration_s(values.duration_text(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "30", "m", "0s", "-5m", "30 m", "5d", "1e3s", "9" * 400 + "h", 30, True, None]
)
def test_not_a_duration(text: object) -> None:
    """Numbers without a unit, nothing, less than nothing and Go's range exceeded are refused."""
    with pytest.raises(ValueError, match=r"not a duration|out of range"):
        values.duration_s(text)


@pytest.mark.parametrize(
    ("text", "path"), [("/usr/lib", "/usr/lib"), ("//usr///lib/./x/", "/usr/lib/x"), ("/a b/..c", "/a b/..c")]
)
def test_path(text: str, path: str) -> None:
    """A path comes out with single slashes and none at its end."""
    assert values.absolute_path(text) == path


@pytest.mark.parametrize(
    "text", ["", "usr", "./usr", "~/x", "/", "//", "/.", "/a/../b", "/..", "/a\0b", "/a\nb"]
)
def test_not_a_path(text: str) -> None:
    """Relative paths, the whole file system, ".." and control characters are refused."""
    with pytest.raises(ValueError, match=r"not an absolute path|whole file system|climbs|control character"):
        values.absolute_path(text)


@pytest.mark.parametrize(
    "text", ["http://h.example/x", "https://u:p@h.example:1/x", "http://[::1]:80", "file:///srv/debian"]
)
def test_url(text: str) -> None:
    """A mirror is an http, https, file or copy URL, and is kept as it was written."""
    assert values.mirror_url(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "h.example",
        "ftp://h.example",
        "http://",
        "http:///x",
        "http://h:port",
        "http://[::1",
        "file:",
        "http://a b",
    ],
)
def test_not_a_url(text: str) -> None:
    """Other schemes, no host, a port that is none, and blanks are refused."""
    with pytest.raises(ValueError, match="URL"):
        values.mirror_url(text)


def test_schemes() -> None:
    """Each kind of URL takes its own schemes and no other's."""
    kinds = {
        values.index_url: {"https", "http", "file"},
        values.mirror_url: {"https", "http", "file", "copy"},
        values.proxy_url: {"https", "http", "socks5", "socks5h"},
        values.socks_url: {"socks5", "socks5h"},
    }
    for check, schemes in kinds.items():
        for scheme in ("https", "http", "file", "copy", "socks5", "socks5h", "ftp"):
            text = f"{scheme}://h.example/x"
            if scheme in schemes:
                assert check(text) == text
            else:
                with pytest.raises(ValueError, match="URL"):
                    check(text)


def test_proxy_without_a_scheme() -> None:
    """HOST:PORT is a proxy for http, as in most people's HTTP_PROXY, but says too little for SOCKS."""
    assert values.proxy_url("proxy.example:3128") == "proxy.example:3128"
    with pytest.raises(ValueError, match="URL"):
        values.socks_url("proxy.example:1080")


DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text",
    [
        "python",
        "python:3.13-slim",
        "a/b__c/d-e--f.g",
        "localhost:5000/a",
        "localhost:5000/a:1",
        "Registry.example/a",
        "One.two.three-4.example:1/a",
        "[::1]:5000/a:T_1.x",
        f"python@{DIGEST}",
        f"h.example/p:1@{DIGEST}",
    ],
)
def test_image_reference(text: str) -> None:
    """What the OCI distribution grammar takes can be a base."""
    assert parse_base(text) == Base("image", text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Python",
        "a/B",
        "a//b",
        "/a",
        "a/",
        "a..b",
        "a___b",
        "-a",
        "a b",
        "a:",
        "a:-x",
        "a:b:c",
        "a:" + "x" * 129,
        "a" * 256,
        "a@sha256:12",
        f"a@{DIGEST}0",
        "a@",
        "http://a/b",
        "a\n",
        "ü",
    ],
)
def test_not_an_image_reference(text: str) -> None:
    """Upper case, empty parts, doubled separators, odd tags, short digests and URLs are refused."""
    with pytest.raises(ValueError, match=r"image reference|digest"):
        values.image_reference(text)


def test_repository_with_a_tag_is_told_where_it_goes() -> None:
    """image.repository has no room for a tag, and the hint puts it where it belongs."""
    with pytest.raises(PydanticCustomError) as caught:
        values.repository("team/sandbox:1.2")
    assert caught.value.context == {
        "what": "'team/sandbox:1.2' is not the name of an image repository",
        "hint": "write team/sandbox here, and 1.2 as the tag",
    }


def test_base_kinds() -> None:
    """debian:SUITE are packages, host is this machine, anything else is an image."""
    assert parse_base("debian:trixie") == Base("debian", "trixie")
    assert parse_base("host") == Base("host", "host")
    assert parse_base("library/debian:12") == Base("image", "library/debian:12")
    assert parse_base(f"debian@{DIGEST}") == Base("image", f"debian@{DIGEST}")


@pytest.mark.parametrize("text", ["debian", "debian:", "debian:12", "debian:trixie-slim", "debian:tri xie"])
def test_base_without_a_suite(text: str) -> None:
    """What looks like Debian's image is not silently taken for a suite, nor the other way round."""
    with pytest.raises(ValueError, match="names no suite of Debian"):
        parse_base(text)


@pytest.mark.parametrize("value", [(1000, 3), [10000, 50000], (1000, (1 << 31) - 1000)])
def test_uid_range(value: object) -> None:
    """The ids of runs start at 1000 and end below 2^31."""
    assert isinstance(value, list | tuple)
    assert values.uid_range(value) == tuple(value)


def test_a_server_needs_three_uids() -> None:
    """One starts runs, one ends them, and one is a run's; an image of before there was a server has fewer."""
    for count in (1, 2):
        with pytest.raises(ValueError, match="has less than 3 user ids"):
            values.uid_range([1000, count])
        assert values.any_uid_range([1000, count]) == (1000, count)


@pytest.mark.parametrize(
    "value",
    [
        (999, 1),
        (1000, 0),
        (1000, -1),
        (1000, (1 << 31) - 999),
        (0, 70000),
        [1000],
        [1, 2, 3],
        [1000, True],
        "1000",
        5,
    ],
)
def test_not_a_uid_range(value: object) -> None:
    """System accounts, empty ranges, ids beyond 31 bits and other shapes are refused."""
    with pytest.raises(ValueError, match=r"out of range|two whole numbers"):
        values.uid_range(value)


def test_syscalls_by_number_and_name() -> None:
    """Only dify-sandbox's own list takes numbers, and only ones that a table can have."""
    assert values.syscall_name_or_number(0) == 0
    assert values.syscall_name_or_number("_llseek") == "_llseek"
    for value in (-1, 1024, 1 << 30, True, 1.5, "READ", "sys read", "5", ""):
        with pytest.raises(ValueError, match=r"no system call|not the name of a system call|in quotes"):
            values.syscall_name_or_number(value)
    with pytest.raises(ValueError, match="56 is a number"):
        values.syscall_name(56)


def test_names() -> None:
    """Variables, labels and groups take the names that their users can read, and no more."""
    assert values.variable_name("_A1") == "_A1"
    assert values.label_key("org.opencontainers.image.source") == "org.opencontainers.image.source"
    assert values.group_name("async-io") == "async-io"
    for check, text in (
        (values.variable_name, "A=B"),
        (values.variable_name, ""),
        (values.variable_value, "a\0b"),
        (values.label_key, 'a"b'),
        (values.label_key, "a" * 256),
        (values.label_value, "one\ntwo"),
        (values.plain_path, "logs\n"),
        (values.group_name, "a b"),
    ):
        with pytest.raises(ValueError, match=r"is not the|character in it"):
            check(text)
