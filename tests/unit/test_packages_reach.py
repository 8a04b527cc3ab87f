"""What nothing asks for, among what is locked."""

from __future__ import annotations

import pytest

from builder.arch import ARCHES
from builder.packages.reach import unasked

AMD64, ARM64 = ARCHES["amd64"], ARCHES["arm64"]


@pytest.mark.parametrize(
    ("requirements", "asked_by", "expected"),
    [
        (["a"], {"a": [], "evil": []}, ["evil"]),
        (["a"], {"a": ["B_c>=2"], "b-c": ["d"], "d": ["a"]}, []),
        (["a"], {"a": ["b; extra == 'x'"], "b": []}, ["b"]),
        (["a[X]"], {"a": ["b; extra == 'x'"], "b": []}, []),
        (["a[all]"], {"a": ["a[x_y]; extra == 'all'", "b; extra == 'x-y'"], "b": []}, []),
        (["a"], {"a": ["c[x]"], "c": ["d; extra == 'x'"], "d": []}, []),
        (["a"], {"a": ["b; platform_machine == 'aarch64'"], "b": []}, ["b"]),
        (["a"], {"a": ["b; sys_platform == 'win32'", "c; os_name == 'posix'"], "b": [], "c": []}, ["b"]),
        (["a; python_version < '3.13'"], {"a": []}, ["a"]),
        (["a"], {"a": ["b; python_full_version >= '3.13'"], "b": []}, []),
        (["a"], {"a": ["b; platform_python_implementation == 'PyPy'"], "b": []}, ["b"]),
        # Two that ask for each other, and nobody for them.
        (["a"], {"a": [], "evil": ["more"], "more": ["evil"]}, ["evil", "more"]),
        # Old metadata that is no requirement to the letter.
        (["a"], {"a": ["b (>=2.5.*)"], "b": []}, []),
    ],
)
def test_what_nothing_asks_for(
    requirements: list[str], asked_by: dict[str, list[str]], expected: list[str]
) -> None:
    assert unasked(requirements, asked_by, "3.13", AMD64) == expected


def test_each_architecture_is_looked_at_for_itself() -> None:
    asked_by = {"a": ["b; platform_machine == 'aarch64'"], "b": []}
    assert unasked(["a"], asked_by, "3.13", ARM64) == []
