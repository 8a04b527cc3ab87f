"""Image references, read as Docker reads them."""

from __future__ import annotations

import pytest

from builder.errors import UsageError
from builder.reference import Reference, parse_reference


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
