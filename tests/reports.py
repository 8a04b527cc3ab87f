"""A small report.json for tests, and one whose every text is hostile."""

from __future__ import annotations

from typing import Any

from builder.report import Report

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
HOSTILE = "</script><script>alert(1)</script><!--\u2028\u202e\x1b[31m\udcff&amp;\"'`${1}"

ORIGINS: list[dict[str, Any]] = [
    {"what": "Python 3.13", "kind": "python", "because": None, "text": "python_path", "needs": [7]},
    {"what": "loader", "kind": "python", "because": 0, "text": "starts it"},
    {"what": "standard library", "kind": "python", "because": 0, "text": "is imported", "needs": [7, 11]},
    {"what": "PyYAML 6.0", "kind": "package", "because": None, "text": "dependencies: pyyaml"},
    {"what": "learn 1.7", "kind": "package", "because": None, "text": "dependencies: learn", "needs": [5, 6]},
    {
        "what": "scipy 1.16",
        "kind": "package",
        "because": 4,
        "text": "required by learn 1.7",
        "needs": [7, 8, 11],
    },
    {"what": "joblib 1.5", "kind": "package", "because": 4, "text": "required by learn 1.7"},
    {"what": "libc.so.6", "kind": "library", "because": 0, "text": "needed by python3.13"},
    {
        "what": "libgfortran.so.5",
        "kind": "library",
        "because": 5,
        "text": "needed by _fblas.so",
        "needs": [9],
    },
    {"what": "libquadmath.so.0", "kind": "library", "because": 8, "text": "needed by libgfortran.so.5"},
    {"what": "/etc/passwd", "kind": "supplied", "because": None, "text": "users"},
    {"what": "libssl.so.3", "kind": "library", "because": 2, "text": "needed by _ssl.so"},
]


def raw(**changes: Any) -> dict[str, Any]:
    """A small report.json, with `changes`."""
    whole: dict[str, Any] = {
        "format": 1,
        "arch": "amd64",
        "base": "debian:trixie",
        "python": {"path": "/usr/bin/python3.13", "version": "3.13", "stdlib": "/usr/lib/python3.13"},
        "distributions": [
            distribution("PyYAML", "6.0", ["_yaml", "yaml"]),
            distribution("learn", "1.7", ["sklearn"]),
            distribution("scipy", "1.16", ["scipy"]),
            distribution("joblib", "1.5", ["joblib"]),
        ],
        "origins": ORIGINS,
        "files": {
            "/etc": [["passwd", 70, 10]],
            "/packages/PyYAML-6.0.dist-info": [["METADATA", 5, 3]],
            "/packages/joblib": [["__init__.py", 40, 6, 60]],
            "/packages/learn-1.7.dist-info": [["METADATA", 7, 4]],
            "/packages/scipy": [["__init__.py", 100, 5, 200]],
            "/packages/scipy.libs": [["libopenblas-5f.so.0", 5000, 5]],
            "/packages/scipy/linalg": [["_fblas.so", 700, 5]],
            "/packages/sklearn": [["__init__.py", 11, 4, 22]],
            "/packages/yaml": [["__init__.py", 30, 3]],
            "/packages/yaml/deep/deeper": [["100%.txt", 1, 3]],
            "/usr/bin": [["python3.13", 6000, 0]],
            LIBRARIES: [
                ["ld-real.so", 220, 1],
                ["libc.so.6", 2000, 7],
                ["libgfortran.so.5.0.0", 900, 8],
                ["libquadmath.so.0", 300, 9],
                ["libssl.so.3", 500, 11],
            ],
            "/usr/lib/python3.13": [["os.py", 41, 2]],
            "/usr/lib/python3.13/json": [["__init__.py", 14, 2, 13]],
        },
        "links": {"/": [["lib", "usr/lib"]], LIBRARIES: [["libgfortran.so.5", "libgfortran.so.5.0.0"]]},
        "totals": {"files": 22, "bytes": 16234},
        "warnings": [],
        "promises": {},
    }
    return whole | changes


def distribution(name: str, version: str, imports: list[str]) -> dict[str, Any]:
    path = f"/packages/{name}-{version}.dist-info"
    return {"name": name, "version": version, "path": path, "imports": imports, "locked": True}


def hostile() -> Report:
    """A report whose every text tries to leave its place."""
    origins = [
        one | {"what": f"{one['what']}{HOSTILE}", "text": f"{one['text']}{HOSTILE}"} for one in ORIGINS
    ]
    folders = raw()["files"] | {f"/packages/{HOSTILE.replace('/', '')}": [[HOSTILE.replace("/", ""), 9, 3]]}
    return Report(
        raw(origins=origins, files=folders, base=HOSTILE, image=HOSTILE, warnings=[HOSTILE], proven=[HOSTILE])
    )
