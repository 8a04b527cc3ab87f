"""Image references, read as Docker reads them."""

from __future__ import annotations

import pytest

from builder.errors import UsageError
from builder.reference import Reference, names_registry, parse_reference


@pytest.mark.parametrize(
    ("text", "reference", "full_name"),
    [
        ("sandbox-python", Reference(None, "sandbox-python", "latest"), "library/sandbox-python:latest"),
        ("team/sandbox:v1", Reference(None, "team/sandbox", "v1"), "team/sandbox:v1"),
        ("localhost/x:1", Reference("localhost", "x", "1"), "localhost/x:1"),
        ("localhost:5000/a/b", Reference("localhost:5000", "a/b", "latest"), "localhost:5000/a/b:latest"),
        ("[::1]:5000/a:t", Reference("[::1]:5000", "a", "t"), "[::1]:5000/a:t"),
        ("[::ffff:1.2.3.4]/a:t", Reference("[::ffff:1.2.3.4]", "a", "t"), "[::ffff:1.2.3.4]/a:t"),
        ("localhost:65535/a:t", Reference("localhost:65535", "a", "t"), "localhost:65535/a:t"),
        ("reg.example/a/b_c:T-1", Reference("reg.example", "a/b_c", "T-1"), "reg.example/a/b_c:T-1"),
    ],
)
def test_references(text: str, reference: Reference, full_name: str) -> None:
    """References are read as Docker reads them, and the full name says what Docker adds."""
    assert parse_reference(text) == reference
    found = parse_reference(text).full_name
    assert found == full_name if reference.host else found.endswith(f"/{full_name}")


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "a:b:c", "a b", "a//b", "-a", "a:-t", "a:" + "t" * 129, "Upper/case", "a@sha256:00"),
        *("http://reg.example/a", "reg.example/", "reg.example:port/a", "user@reg.example/a"),
        "reg.example/a/../b",
        *("localhost:65536/a", "[1.2]:55/a", "[:]/a", f"{'a' * 64}.example/a", "a_b.example/a"),
    ],
)
def test_no_references(text: str) -> None:
    """What Docker would not take is refused before anything is built."""
    with pytest.raises(UsageError) as refused:
        parse_reference(text)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("Reg.example/Team/Sandbox:V1", "repositories are in lower case: reg.example/team/sandbox:V1"),
        ("ghcr.io/Owner/repo", "repositories are in lower case: ghcr.io/owner/repo"),
        ("http://reg.example/a", "leave http:// out: [HOST[:PORT]/]REPOSITORY[:TAG]"),
        ("Bad Name", "[HOST[:PORT]/]REPOSITORY[:TAG]"),
        ("team/sandbox:-V", "[HOST[:PORT]/]REPOSITORY[:TAG]"),
    ],
)
def test_what_mends_it(text: str, hint: str) -> None:
    """The commonest two slips have hints of their own; where more is wrong, the form is shown."""
    with pytest.raises(UsageError) as refused:
        parse_reference(text)
    assert refused.value.hint == hint


@pytest.mark.parametrize(
    ("text", "named"),
    [
        *((name, True) for name in ("localhost/x", "localhost:5000/x:1", "reg.example/x", "https://reg/x")),
        *((name, False) for name in ("x", "team/x:1", "dist/amd64", "./x.y/z", "../a.b", "/a.b/c", "a.b:1")),
        (f"sha256:{'0' * 64}", False),
    ],
)
def test_what_names_a_registry(text: str, named: bool) -> None:
    """A path or an engine's own name or ID does not."""
    assert names_registry(text) == named
